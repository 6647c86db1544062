package listen

import (
	"math"
	"net"
	"sync/atomic"
)

// This file has what the Watcher does for a TCP socket. It accepts the clients and passes
// them on, so the goroutine that accepts a client also moves its bytes. That costs less
// CPU time than a goroutine of the socket, which would have to wake the other one.
//
//	                no client is queued
//	own goroutine ───────────────────────▶ watched
//	              ◀───────────────────────
//	                a client is queued, and
//	                something to wait for
//
// The goroutines of the Watcher must not wait. These are waited for by the socket's own
// goroutine, see [tcpSocket.accept]:
//   - a descriptor outside of the reserve, for a client of this socket or of another one
//   - the end of an error of accept4(2)
//   - a listener without TakeTCP, which may call Accept late
//
// Invariant: a socket that is neither suspended nor closed is watched, or its goroutine
// runs, or a call of readable is about to start it.

// watchedTCP is what a TCP socket has for the Watcher.
type watchedTCP struct {
	watching
	full atomic.Int32 // calls of readable in a row that have accepted acceptsPerCall clients
}

const (
	// acceptsPerCall bounds the clients that a call of readable accepts, so that it does
	// not delay the relays of the same event loop.
	acceptsPerCall = 8
	// fullCalls is how many calls of readable in a row accept acceptsPerCall clients
	// before a helper starts, see [tcpSocket.startHelper].
	fullCalls = 8
)

// watchable reports whether the Watcher can wait for the next client: the latest listener
// has a TakeTCP. Only the goroutine of accept may call it.
func (t *tcpSocket) watchable() bool {
	return t.sockets.TCPWatcher != nil && t.hasTaker() && t.ln.prepare()
}

// hasTaker reports whether the latest listener has a TakeTCP.
func (t *tcpSocket) hasTaker() bool {
	l, ok := t.listeners.latest()
	return ok && l.opts.TakeTCP != nil
}

// watch makes the Watcher watch the socket. It returns false if that fails, or if the
// socket is suspended or closed. Only the goroutine of accept may call it, which returns
// afterwards if the socket is watched.
//
// Precondition: the socket is watchable.
func (t *tcpSocket) watch() bool {
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
		return true // since an earlier call; the gate was opened again
	}
	var stop func()
	var err error
	failed := t.ln.control(func(fd uintptr) { stop, err = t.sockets.TCPWatcher.Watch(int(fd), t.readable) })
	if failed != nil || err != nil {
		return false // out of descriptors or memory, so the goroutine waits for the next client
	}
	w.stop, w.wanted = stop, true
	return true
}

// readable accepts clients and passes them on. The Watcher calls it, on several goroutines
// at once if clients are queued. If something has to be waited for, the socket's goroutine
// runs from now on instead.
func (t *tcpSocket) readable() {
	if !t.watched.begin(math.MaxInt) {
		return
	}
	waits, first := t.acceptQueued()
	if waits {
		t.watched.suspend()
		t.startGoroutine(first) // before end, so the socket does not count as stopped
	}
	t.watched.end(false)
}

// acceptQueued accepts queued clients and passes them on. waits is true if something has
// to be waited for. first, if not nil, must be called on a goroutine that may wait: it
// passes on a client that was accepted already.
func (t *tcpSocket) acceptQueued() (waits bool, first func()) {
	for range acceptsPerCall {
		if !t.hasTaker() || t.sockets.crowded.Load() > 0 {
			return true, nil
		}
		conn, err := t.ln.acceptQueued()
		switch {
		case err != nil:
			return true, nil // the goroutine meets the error again, and reports it
		case conn == nil:
			t.watched.full.Store(0)
			return false, nil
		}
		out, ok := leaveReserve(conn)
		if !ok {
			t.sockets.crowded.Add(1) // at once, so no other socket accepts a client meanwhile
			return true, func() { t.passReserved(conn) }
		}
		if !t.pass(out, false) {
			return true, func() { t.pass(out, true) }
		}
	}
	if t.watched.full.Add(1) >= fullCalls {
		t.watched.full.Store(0)
		t.startHelper()
	}
	return false, nil
}

// startGoroutine makes the socket's own goroutine run. If first is not nil, it is called
// before, by another goroutine if the socket's own one runs already.
func (t *tcpSocket) startGoroutine(first func()) {
	start := t.gate.restart()
	if first == nil && !start {
		return
	}
	t.helpers.Add(1)
	t.accepting.Go(func() { // returns when the socket is watched, suspended or closed
		if first != nil {
			first()
		}
		t.helpers.Add(-1)
		if start {
			t.gate.run(t.accept)
		}
	})
}

// passReserved waits for a descriptor for a client that readable has accepted, and passes
// it on. The client is counted in Sockets.crowded, which ends here.
func (t *tcpSocket) passReserved(conn net.Conn) {
	backoff := t.backoff()
	conn = t.leaveReserve(conn, &backoff)
	t.sockets.crowded.Add(-1)
	if conn != nil {
		backoff.success()
		t.pass(conn, true)
	}
}
