package stream

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// goroutineMover moves bytes with a goroutine for each direction: the caller's
// of Carry for the client's bytes, and one of its own for the backend's. It works
// over any net.Conn.
type goroutineMover struct {
	client Client // set once, as are rules and wheel
	rules  Rules
	wheel  *Wheel
	idler
	over chan struct{} // closed once the relay is over and both connections are closed

	held     [2]atomic.Bool // by source: bytes are being written to the sink
	counters [2]counter     // by source; each belongs to its goroutine

	mu       sync.Mutex // guards the fields below
	ends     ends
	backend  net.Conn      // nil before Carry
	reported chan struct{} // closed when a write error was recorded; nil: no goroutine waits
}

// NewMover returns a mover that uses goroutines.
func NewMover(client Client, rules Rules, wheel *Wheel) Mover {
	m := &goroutineMover{client: client, rules: rules, wheel: wheel, over: make(chan struct{})}
	m.idler = newIdler(m)
	m.counters[ClientSide].skip = client.HeaderLen
	if client.Finished {
		m.ends.startFinished()
	}
	return m
}

// ClientReset implements [Mover].
func (m *goroutineMover) ClientReset() bool {
	return m.client.Socket != nil && netio.PeerStateOf(m.client.Socket).Reset()
}

// Carry implements [Mover].
func (m *goroutineMover) Carry(backend net.Conn, totals Totals) {
	m.mu.Lock()
	if m.ends.over {
		m.mu.Unlock()
		netio.Reset(backend)
		return
	}
	m.backend = backend
	m.counters[ClientSide].total, m.counters[BackendSide].total = totals.Up, totals.Down
	m.wheel.add(&m.idler)
	m.mu.Unlock()

	done := make(chan struct{})
	go func() { // ends with the relay
		defer close(done)
		m.move(BackendSide, nil)
	}()
	if !m.client.Finished {
		m.move(ClientSide, m.client.Early)
	}
	<-done
	<-m.over
	m.report()
}

// conn returns a side's connection. The backend's exists once Carry has begun.
func (m *goroutineMover) conn(side Side) net.Conn {
	if side == ClientSide {
		return m.client.Conn
	}
	return m.backend
}

// socket returns a side's plain socket; nil if it has none.
func (m *goroutineMover) socket(side Side) net.Conn {
	if side == ClientSide {
		return m.client.Socket
	}
	return m.backend
}

// move moves the bytes of one direction until its source has ended, or the relay
// is over. early goes before what is read. After the loss of the sink it reads
// and drops.
func (m *goroutineMover) move(source Side, early []byte) {
	defer m.guard()
	lost := len(early) > 0 && !m.write(source, early)
	reader := netio.NewReader(m.conn(source))
	defer reader.Release()
	for {
		bytes, err := reader.Next()
		switch {
		case err == nil:
			lost = lost || !m.write(source, bytes)
		case errors.Is(err, io.EOF):
			m.sourceEnded(source)
			return
		default:
			m.sourceReset(source)
			return
		}
	}
}

// write writes to the sink of a source. It returns false if the sink is lost.
func (m *goroutineMover) write(source Side, bytes []byte) bool {
	m.wheel.touch(&m.idler)
	m.held[source].Store(true)
	n, err := m.conn(source.other()).Write(bytes)
	m.held[source].Store(false)
	m.counters[source].add(n)
	if err != nil {
		m.writeFailed(source.other(), err)
		return false
	}
	m.wheel.touch(&m.idler)
	return true
}

// writeFailed records that a side takes no more bytes.
func (m *goroutineMover) writeFailed(side Side, err error) {
	m.mu.Lock()
	if m.reported != nil {
		close(m.reported)
		m.reported = nil
	}
	m.do(side.other(), m.ends.writeFailed(side, isReset(err)))
}

// sourceEnded passes the end of a source's stream on.
func (m *goroutineMover) sourceEnded(source Side) {
	var peer netio.PeerState
	if socket := m.socket(source); socket != nil {
		peer = netio.PeerStateOf(socket)
		if _, unix := socket.(*net.UnixConn); unix {
			peer.Closed = false // its peer shuts down both directions by a close
		}
	}
	m.mu.Lock()
	if m.ends.hidesReset(source, peer.Failed, peer.Closed) {
		m.awaitWriteErrorLocked()
	}
	if m.ends.hidesReset(source, peer.Failed, peer.Closed) {
		m.do(source, m.ends.resetBeforeEnd(source))
		return
	}
	m.do(source, m.ends.end(source))
	if peer.Failed {
		m.mu.Lock()
		m.do(source.other(), m.ends.resetAfterEnd(source))
	}
}

// sourceReset ends a source whose connection was reset or has timed out.
func (m *goroutineMover) sourceReset(source Side) {
	m.mu.Lock()
	m.do(source, m.ends.resetBeforeEnd(source))
}

// do does what an input concerning a source, or the loss of its sink, has led to.
// It is called with the lock held and releases it: closing a wrapped connection
// may block.
func (m *goroutineMover) do(source Side, out output) {
	sink := source.other()
	if out&closeBoth != 0 {
		finish := out&sendFinish != 0
		m.mu.Unlock()
		defer m.close() // also if the half-close panics
		if finish {
			_ = m.finish(sink)
		}
		return
	}
	m.mu.Unlock()
	switch {
	case out&sendFinish != 0:
		err := m.finish(sink)
		switch {
		case err == nil:
		case errors.Is(err, errors.ErrUnsupported), errors.Is(err, os.ErrDeadlineExceeded):
			owed := m.awaitDelivered(sink)
			m.mu.Lock()
			m.do(source, m.ends.cannotFinish(owed))
		default:
			m.writeFailed(sink, err)
		}
	case out&awaitAck != 0:
		m.awaitAck(sink)
		m.mu.Lock()
		m.do(source, m.ends.acked(source))
	}
}

// finish sends the end of the stream to a side. The error is ErrUnsupported if it
// cannot be half-closed, and ErrDeadlineExceeded if it is not reading: TLS waits
// five seconds to send its close_notify, and sends nothing after that.
func (m *goroutineMover) finish(side Side) error {
	end := m.client.CloseWriter
	if side == BackendSide {
		end, _ = m.backend.(CloseWriter)
	}
	if end == nil {
		return errors.ErrUnsupported
	}
	return end.CloseWrite()
}

// expireIfIdle is called by the wheel.
func (m *goroutineMover) expireIfIdle() {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.ends.over:
	case !m.wheel.isIdle(&m.idler):
		m.wheel.putBack(&m.idler)
	default:
		go m.expire() // ends with the relay: closing a wrapped connection may block
	}
}

// doDeferred implements [wheelOwner]. It is not called: the relay defers nothing.
func (m *goroutineMover) doDeferred() {}

// expire ends the relay, which is idle.
func (m *goroutineMover) expire() {
	defer m.guard()
	owed := m.owed()
	m.mu.Lock()
	m.do(ClientSide, m.ends.expire(owed))
}

// Cut implements [Mover].
func (m *goroutineMover) Cut(reason Reason) {
	defer m.guard()
	m.mu.Lock()
	m.do(ClientSide, m.ends.cut(reason))
}

// guard is deferred by all that runs for the relay: a panic ends this relay and
// no other.
func (m *goroutineMover) guard() {
	value := recover()
	if value == nil {
		return
	}
	m.mu.Lock()
	m.rules.Panicked(value)
	m.do(ClientSide, m.ends.cut(Panicked))
}

// close closes both sides. It is called once, after the input that has ended the
// relay.
func (m *goroutineMover) close() {
	defer func() {
		if value := recover(); value != nil { // from a wrapped connection
			m.mu.Lock()
			m.rules.Panicked(value)
			m.mu.Unlock()
			m.client.ResetAfterPanic()
		}
		close(m.over)
		if m.backend == nil { // otherwise Carry reports, once both goroutines have ended
			m.report()
		}
	}()
	m.wheel.remove(&m.idler)
	if m.backend != nil {
		closeConn(m.ends.closing(BackendSide), m.backend, func() { netio.Reset(m.backend) })
	}
	reset := m.client.Reset
	if m.ends.reason == Panicked {
		reset = m.client.ResetAfterPanic
	}
	closeConn(m.ends.closing(ClientSide), m.client.Conn, reset)
}

// report reports the end of the relay.
func (m *goroutineMover) report() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rules.Ended(End{Reason: m.ends.reason, BytesUp: m.counters[ClientSide].sum, BytesDown: m.counters[BackendSide].sum})
}

// closeConn closes a connection. On a plain socket a FIN is sent explicitly: a
// close alone would send a RST instead if received bytes are unread. That is not
// done for TLS, whose CloseWrite waits for a Write that blocks, and whose Close
// sends close_notify. TLS connections have no SyscallConn.
func closeConn(how closing, conn net.Conn, reset func()) {
	switch how {
	case closeWithRST:
		reset()
		return
	case closeWithFIN:
		if plain, ok := conn.(interface {
			syscall.Conn
			CloseWriter
		}); ok {
			_ = plain.CloseWrite()
		}
	}
	_ = conn.Close()
}

// isReset reports whether the error of a write shows that the peer was reset
// before it finished. Linux reports EPIPE if the peer had sent a FIN before, and
// ECONNRESET or ETIMEDOUT otherwise (tcp_reset in net/ipv4/tcp_input.c). ENOTCONN
// is the error of a FIN, and tells nothing.
func isReset(err error) bool {
	return !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ENOTCONN)
}
