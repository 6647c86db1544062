package listen

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// tcpSocket is a listening kernel socket.
type tcpSocket struct {
	sockets *Sockets
	at      netip.AddrPort
	ln      acceptor

	users     int // open listeners; guarded by Sockets.binding
	listeners listeners[*TCPListener]
	closed    chan struct{}
	gate      gate
	accepting sync.WaitGroup // the goroutines that accept clients
	helpers   atomic.Int32   // those that are not in accept, see startHelper and startGoroutine
	failures  failureLog     // of the goroutines that accept clients
	watched   watchedTCP
}

// TCPListener is one config's listener on a shared TCP socket.
type TCPListener struct {
	socket *tcpSocket
	opts   Options
	conns  chan net.Conn
	done   chan struct{}
	once   sync.Once
}

func (l *TCPListener) options() Options { return l.opts }

// TCP opens a listener on an address.
func (s *Sockets) TCP(at netip.AddrPort, opts Options) (*TCPListener, error) {
	s.binding.Lock()
	defer s.binding.Unlock()
	socket := s.tcp[at]
	opened := socket == nil
	if opened {
		bound, shared, err := s.open("tcp", at, listenTCP)
		if err != nil {
			return nil, err
		}
		socket = newTCPSocket(s, at, bound.(*net.TCPListener))
		s.tcp[at] = socket
		if shared {
			s.endSharingOf("tcp", at.Port(), opts.Log)
		}
	}
	l := &TCPListener{socket: socket, opts: opts, conns: make(chan net.Conn), done: make(chan struct{})}
	if err := socket.listeners.add(l, at.String()); err != nil {
		return nil, err
	}
	socket.users++
	if opened {
		s.start(socket)
	}
	return l, nil
}

func newTCPSocket(s *Sockets, at netip.AddrPort, ln *net.TCPListener) *tcpSocket {
	t := &tcpSocket{sockets: s, at: at, ln: newAcceptor(ln), closed: make(chan struct{})}
	t.failures = failureLog{at: at, log: t.listeners.log, failed: "accept failed, retrying", recovered: "accepting clients again"}
	return t
}

// Accept implements net.Listener.
func (l *TCPListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, fmt.Errorf("accept on %s: %w", l.socket.at, net.ErrClosed)
	}
}

// Addr implements net.Listener.
func (l *TCPListener) Addr() net.Addr { return l.socket.ln.Addr() }

// Close closes this listener, and the socket if it was the last one.
func (l *TCPListener) Close() error {
	l.once.Do(func() {
		s := l.socket.sockets
		s.binding.Lock()
		defer s.binding.Unlock()
		if inherited := s.inherited[addressOf(l.socket)]; l.socket.users == 1 && inherited != nil && inherited.kept {
			stopTaking(l.socket)
		}
		l.socket.listeners.remove(l)
		close(l.done)
		l.socket.users--
		if l.socket.users == 0 {
			delete(s.tcp, l.socket.at)
			close(l.socket.closed)
			l.socket.watched.suspend()
			// These waits cannot deadlock: no goroutine that accepts clients locks s.binding.
			l.socket.watched.awaitStopped()
			_ = l.socket.ln.Close()
			l.socket.accepting.Wait()
		}
	})
	return nil
}

// stopLimit bounds stopTaking: a listener that nobody accepts from any more may
// have a client.
const stopLimit = 50 * time.Millisecond

// stopTaking suspends a socket and waits until no client is being taken. A client that
// is accepted after the last listener was removed is reset, and not left for the next
// process.
func stopTaking(socket boundSocket) {
	socket.suspend()
	for began := time.Now(); !socket.stopped() && time.Since(began) < stopLimit; {
		time.Sleep(time.Millisecond)
	}
}

// start implements boundSocket.
func (t *tcpSocket) start() {
	t.ln.interrupt(false)
	if t.gate.open() {
		t.accepting.Go(func() { t.gate.run(t.accept) }) // returns when the socket is watched, suspended or closed
	}
}

// suspend implements boundSocket.
func (t *tcpSocket) suspend() {
	t.gate.suspend()
	t.watched.suspend()
	t.ln.interrupt(true)
}

// stopped implements boundSocket. The order counts: a call of readable may start the
// goroutine of accept and helpers, and that goroutine may start helpers.
func (t *tcpSocket) stopped() bool {
	return t.watched.stopped() && t.gate.stopped() && t.helpers.Load() == 0
}

// network implements boundSocket.
func (t *tcpSocket) network() string { return "tcp" }

// address implements boundSocket.
func (t *tcpSocket) address() netip.AddrPort { return t.at }

// control implements boundSocket.
func (t *tcpSocket) control(f func(fd uintptr)) error { return t.ln.control(f) }

// backoff returns the backoff of an accepting goroutine.
func (t *tcpSocket) backoff() backoff { return backoff{failures: &t.failures, closed: t.closed} }

// accept accepts clients and passes them to the latest listener until the socket is
// watched, suspended or closed. When descriptors or memory run out, it frees descriptors,
// and clients wait in the kernel's queue.
func (t *tcpSocket) accept() {
	backoff := t.backoff()
	for queued := 0; !t.gate.suspended.Load(); { // clients in a row that were already queued
		if !t.awaitDescriptor(&backoff) {
			return
		}
		conn, waited, err := t.next()
		if queued++; waited {
			queued = 0
		}
		switch {
		case err == nil && conn == nil:
			backoff.success() // accept4 fails without a descriptor, also if no client is queued
			return            // the socket is watched
		case err == nil:
			if conn = t.leaveReserve(conn, &backoff); conn == nil {
				return
			}
			backoff.success()
			if queued >= helperThreshold {
				queued = 0
				t.startHelper()
			}
			t.pass(conn, true)
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, os.ErrDeadlineExceeded): // suspended, and maybe resumed since
		case netio.OutOfDescriptors(err) && t.sockets.freeDescriptor():
		default:
			backoff.failure(err)
		}
	}
}

// next returns the next client and whether it had to wait for it. If none is queued, it
// makes the Watcher wait for the next one if that is possible, and returns nil.
func (t *tcpSocket) next() (conn net.Conn, waited bool, err error) {
	if t.watchable() {
		conn, err = t.ln.acceptQueued()
		if conn != nil || err != nil || t.watch() {
			return conn, false, err
		}
	}
	return t.ln.accept()
}

// awaitDescriptor waits until there is a descriptor for a client, if a client of
// any socket waits in leaveReserve. It returns false if the socket was suspended or
// closed.
func (t *tcpSocket) awaitDescriptor(backoff *backoff) bool {
	for t.sockets.crowded.Load() > 0 && !netio.HasDescriptor() {
		if t.gate.suspended.Load() || !backoff.failure(netio.ErrReserved) {
			return false
		}
	}
	return true
}

// leaveReserve gives a client whose descriptor is in the reserve another one (see
// [netio.Reserved]), and waits for it if there is none. That costs one descriptor
// of the reserve for each accepting goroutine that has found no other at the same
// time. It returns nil, and resets the client, if the socket was closed.
func (t *tcpSocket) leaveReserve(conn net.Conn, backoff *backoff) net.Conn {
	out, ok := leaveReserve(conn)
	if ok {
		return out
	}
	t.sockets.crowded.Add(1)
	defer t.sockets.crowded.Add(-1)
	for tries := 0; ; tries++ {
		freed := t.sockets.freeDescriptor()
		if out, ok = leaveReserve(conn); ok {
			return out
		}
		if freed && tries == 0 {
			continue // another client has taken the descriptor
		}
		if !backoff.failure(netio.ErrReserved) {
			netio.Reset(conn)
			return nil
		}
	}
}

// leaveReserve returns conn, or the same client with a descriptor that is not in
// the reserve. ok is false if there is none.
func leaveReserve(conn net.Conn) (out net.Conn, ok bool) {
	if bare, is := conn.(interface{ leaveReserve() bool }); is {
		return conn, bare.leaveReserve()
	}
	return netio.LeaveReserve(conn.(*net.TCPConn))
}

// helperThreshold is the number of clients in a row that were already queued
// after which another goroutine helps to accept. With TakeTCP, accepting a client
// includes connecting to its backend, so one CPU may be too slow.
const helperThreshold = 8

// startHelper starts another goroutine that accepts clients while some are
// queued. It does so only if a CPU is free for it and the latest listener has a
// TakeTCP.
func (t *tcpSocket) startHelper() {
	if !t.hasTaker() {
		return
	}
	if t.helpers.Add(1) >= int32(runtime.GOMAXPROCS(0)) {
		t.helpers.Add(-1)
		return
	}
	t.accepting.Go(func() { // returns when no client is queued
		defer t.helpers.Add(-1)
		backoff := t.backoff()
		for t.sockets.crowded.Load() == 0 && !t.gate.suspended.Load() {
			conn, err := t.ln.acceptQueued()
			if conn == nil || err != nil {
				return // accept meets a lasting error too, and reports it
			}
			if conn = t.leaveReserve(conn, &backoff); conn == nil {
				return
			}
			backoff.success()
			t.pass(conn, true)
		}
	})
}

// pass passes a client to the latest listener that takes it. It resets the client if
// there is none. It returns false if the client has to wait for Accept, unless wait is
// true.
func (t *tcpSocket) pass(conn net.Conn, wait bool) (passed bool) {
	var declined []*TCPListener
	for {
		l, ok := t.listeners.latest(declined...)
		switch {
		case !ok:
			netio.Reset(conn)
			return true
		case l.opts.TakeTCP != nil:
			if l.opts.TakeTCP(conn) {
				return true
			}
			declined = append(declined, l)
			continue
		case !wait:
			return false
		}
		select {
		case l.conns <- conn:
			return true
		case <-l.done: // closed meanwhile, so try the listener that is the latest now
		}
	}
}
