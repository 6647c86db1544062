package handler

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// reason is why a relay ended, in the words of the log.
type reason string

const (
	clientClosed  reason = "client_closed" // both finished, the client first
	backendClosed reason = "backend_closed"
	clientReset   reason = "client_reset"
	backendReset  reason = "backend_reset"
	idleTimeout   reason = "idle_timeout"
	refusedClient reason = "refused" // no backend, or no room
	panicked      reason = "panic"
	exhausted     reason = "exhausted" // this machine lacks something that carrying needs
	removed       reason = "reload"    // its service left the config, and the grace period is over
	shutdown      reason = "shutdown"  // the drain is over
	serviceClosed reason = "closed"
)

// link carries bytes between a client and its backend, on two goroutines, the
// portable way: it works over any connection and any system.
type link struct {
	client   Client
	backend  net.Conn
	idle     time.Duration
	panicked func(p any) // tells of a panic of the second goroutine

	began    time.Time
	moved    atomic.Int64 // when bytes last moved either way, after began
	up, down counter

	mu       sync.Mutex // guards what follows
	finished int        // directions that came to their end
	first    reason     // whose end came first
	ended    bool
	reason   reason
	timer    *time.Timer // runs checkIdle
}

// direction is one way through a link.
type direction struct {
	from       net.Conn
	to         net.Conn
	closeWrite func() error // passes the end on; nil where there is no way to
	early      []byte
	moved      *counter
	closed     reason // from finished
	fromReset  reason
	toReset    reason
}

func newLink(client Client, backend net.Conn, idle time.Duration) *link {
	l := &link{client: client, backend: backend, idle: idle, began: time.Now()}
	l.up.skip = client.header
	return l
}

// run carries both directions until the relay has ended, and says why it has.
func (l *link) run() reason {
	l.mu.Lock()
	l.timer = time.AfterFunc(l.idle, l.checkIdle)
	l.mu.Unlock()

	down := direction{
		from: l.backend, to: l.client.Conn, closeWrite: l.client.CloseWrite,
		moved: &l.down, closed: backendClosed, fromReset: backendReset, toReset: clientReset,
	}
	up := direction{
		from: l.client.Conn, to: l.backend, closeWrite: closeWriter(l.backend), early: l.client.Early,
		moved: &l.up, closed: clientClosed, fromReset: clientReset, toReset: backendReset,
	}
	done := make(chan struct{})
	go func() { // the way down; ends when the link does, and is waited for
		defer close(done)
		l.carry(down)
	}()
	l.carry(up)
	<-done

	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer.Stop()
	return l.reason
}

// carry moves bytes one way until that way ends.
func (l *link) carry(d direction) {
	defer l.guard()
	if len(d.early) > 0 && !l.write(d, d.early) {
		return
	}
	reader := netio.NewReader(d.from)
	defer reader.Release()
	for {
		bytes, err := reader.Next()
		switch {
		case err == nil:
			if !l.write(d, bytes) {
				return
			}
		case errors.Is(err, io.EOF):
			l.finish(d)
			return
		default:
			l.end(d.fromReset)
			return
		}
	}
}

// guard is deferred first in all that runs for the link: a panic ends this
// relay and nothing else.
func (l *link) guard() {
	if p := recover(); p != nil {
		l.panicked(p)
		l.end(panicked)
		l.client.abandon() // end may be what panicked
	}
}

func (l *link) write(d direction, bytes []byte) bool {
	l.touch()
	n, err := d.to.Write(bytes)
	d.moved.add(n)
	if err != nil {
		l.end(d.toReset)
		return false
	}
	l.touch()
	return true
}

func (l *link) touch() { l.moved.Store(int64(time.Since(l.began))) }

// finish passes the end of one direction on. The second end is the end of all.
func (l *link) finish(d direction) {
	l.mu.Lock()
	l.finished++
	last := l.finished == 2
	if !last {
		l.first = d.closed
	}
	why := l.first
	l.mu.Unlock()
	if !last && netio.PeerStateOf(d.from).Reset() {
		// The other direction's write took the reset: a system tells of it once,
		// and what is read after that looks like an orderly end.
		l.end(d.fromReset)
		return
	}
	if last || d.closeWrite == nil {
		l.end(why)
		return
	}
	if err := d.closeWrite(); err != nil {
		l.end(d.toReset)
	}
}

// checkIdle ends the link if nothing has moved for the idle timeout, else has
// itself called again when that may be so.
func (l *link) checkIdle() {
	defer l.guard()
	still := time.Since(l.began) - time.Duration(l.moved.Load())
	if still >= l.idle {
		l.end(idleTimeout)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.timer.Reset(l.idle - still)
	}
}

// cut ends the link from outside.
func (l *link) cut(why reason) {
	defer l.guard()
	l.end(why)
}

// end ends the link, once: by closing both sides, which ends both directions.
func (l *link) end(why reason) {
	l.mu.Lock()
	first := !l.ended
	if first {
		l.ended, l.reason = true, why
	}
	l.mu.Unlock()
	if !first {
		return
	}
	switch why {
	case clientReset, backendReset, removed, shutdown, serviceClosed:
		netio.Reset(l.backend)
		l.client.reset()
	case panicked:
		netio.Reset(l.backend)
		l.client.abandon()
	default:
		// A shutdown first: a close alone would reset a peer whose bytes lie
		// unread, without a FIN. Not so on TLS, whose CloseWrite waits for a
		// Write that hangs, and whose Close says goodbye by itself.
		sayFIN(l.backend)
		sayFIN(l.client.Conn)
		_ = l.backend.Close()
		_ = l.client.Conn.Close()
	}
}

func sayFIN(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
}

// closeWriter is how conn is told that no more bytes come; nil if it can't be.
func closeWriter(conn net.Conn) func() error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite
	}
	return nil
}
