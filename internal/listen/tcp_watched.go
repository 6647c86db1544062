package listen

import (
	"math"
	"net"
	"sync/atomic"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// This file is how the Watcher accepts the clients of a TCP socket. That costs less than
// a goroutine of the socket, because the goroutine that accepts a client also moves its
// bytes. The Watcher's goroutines must not wait. So the socket's own goroutine, see
// [tcpSocket.accept], takes over where something has to be waited for: a descriptor,
// the end of an error, or a handler that calls Accept. It gives the socket back to the
// Watcher as soon as it would wait for the next client.

// watchedTCP is what a TCP socket has for the Watcher.
type watchedTCP struct {
	watching
	full atomic.Int32 // calls of readable in a row that have accepted all they may
}

const (
	// acceptsPerCall bounds the clients that a call of readable accepts, so that the
	// relays of the loop are not delayed.
	acceptsPerCall = 8
	// fullCalls is how many calls of readable in a row must find more clients before
	// helpers start, see [tcpSocket.startHelper].
	fullCalls = 8
)

// watch starts the Watcher, if there is one and nothing has to be waited for. It returns
// whether the socket is watched. Only the goroutine of accept may call it.
func (t *tcpSocket) watch() bool {
	if t.sockets.TCPWatcher == nil || !t.takesAtOnce() || !t.ln.prepare() {
		return false
	}
	w := &t.watched
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-t.closed:
		return false
	default:
	}
	if t.gate.suspended.Load() {
		return false
	}
	if w.stop != nil {
		return true
	}
	var err error
	if t.ln.control(func(fd uintptr) { w.stop, err = t.sockets.TCPWatcher.Watch(int(fd), t.readable) }) != nil || err != nil {
		w.stop = nil
		return false
	}
	w.wanted = true
	return true
}

// takesAtOnce reports whether clients are taken without waiting.
func (t *tcpSocket) takesAtOnce() bool {
	l, ok := t.listeners.latest()
	return ok && l.opts.TakeTCP != nil && t.sockets.crowded.Load() == 0
}

// readable accepts clients and passes them on. The Watcher calls it.
func (t *tcpSocket) readable() {
	if !t.watched.begin(math.MaxInt) {
		return
	}
	waits, left := t.acceptQueued()
	if waits {
		t.watched.suspend()
		t.startGoroutine(left)
	}
	t.watched.end(false)
}

// acceptQueued accepts queued clients and passes them on. waits is true if something has
// to be waited for; then left, if not nil, is the client that waits.
func (t *tcpSocket) acceptQueued() (waits bool, left net.Conn) {
	for range acceptsPerCall {
		if !t.takesAtOnce() {
			return true, nil
		}
		conn, err := t.ln.acceptQueued()
		switch {
		case err != nil:
			return true, nil // accept meets the error again, and reports it
		case conn == nil:
			t.watched.full.Store(0)
			return false, nil
		}
		out, ok := leaveReserve(conn)
		if !ok {
			return true, conn
		}
		if !t.passAtOnce(out) {
			return true, out
		}
	}
	if t.watched.full.Add(1) >= fullCalls {
		t.watched.full.Store(0)
		t.startHelper()
	}
	return false, nil
}

// startGoroutine starts the socket's own goroutine, which first passes on a client, if
// there is one. Without a client, it does nothing if that goroutine runs already, or the
// socket is suspended.
func (t *tcpSocket) startGoroutine(left net.Conn) {
	start := t.gate.restart()
	if left == nil && !start {
		return
	}
	t.helpers.Add(1)
	t.accepting.Go(func() { // returns when the socket is watched, suspended or closed
		if left != nil {
			backoff := t.backoff()
			if left = t.leaveReserve(left, &backoff); left != nil {
				backoff.success()
				t.pass(left)
			}
		}
		t.helpers.Add(-1)
		if start {
			t.gate.run(t.accept)
		}
	})
}

// passAtOnce passes a client to the latest listener that takes it, if this needs no
// wait. It resets the client if there is no listener.
func (t *tcpSocket) passAtOnce(conn net.Conn) bool {
	var declined []*TCPListener
	for {
		l, ok := t.listeners.latest(declined...)
		switch {
		case !ok:
			netio.Reset(conn)
			return true
		case l.opts.TakeTCP == nil:
			return false
		case l.opts.TakeTCP(conn):
			return true
		}
		declined = append(declined, l)
	}
}
