package listen

import (
	"sync"
	"sync/atomic"
)

// gate suspends and resumes the goroutine that takes clients of a socket. Between the
// states below, the goroutine also returns when the socket is watched (see
// [tcpSocket.accept]), and is started again by restart.
//
//	             open                suspend
//	closed ────────────────▶ open ◀────────────▶ suspended, and still running
//	   ▲                       ▲       open           │ the goroutine returns
//	   │ the socket is closed  │ open                 ▼
//	   └───────────────────────┴───────────────── suspended
//
// Invariant: after open and restart, take is called at least once more from its begin.
// Otherwise a call that comes while the goroutine is about to return would have no
// effect, and nothing would take the socket's clients any more.
type gate struct {
	suspended atomic.Bool // changed under mu

	mu      sync.Mutex // guards the fields below
	running bool       // a goroutine is in run, or will be
	again   bool       // run must call take once more; only if running
}

// run calls take until it returns and neither open nor restart was called meanwhile. take
// returns when it finds that the gate is suspended, or that the socket is closed or watched.
func (g *gate) run(take func()) {
	for again := true; again; {
		take()
		again = g.runAgain()
	}
}

// runAgain reports whether run must call take once more. If not, the goroutine counts as
// returned.
func (g *gate) runAgain() (again bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	again, g.again = g.again, false
	g.running = again
	return again
}

// open opens the gate. It reports whether the caller must call run on a new goroutine.
func (g *gate) open() (start bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.suspended.Store(false)
	return g.restartLocked()
}

// restart makes the goroutine run that may have returned. It reports whether the caller
// must call run on a new goroutine. If the gate is suspended, that goroutine returns at
// once.
func (g *gate) restart() (start bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.restartLocked()
}

func (g *gate) restartLocked() (start bool) {
	start = !g.running
	g.running, g.again = true, !start
	return start
}

// suspend suspends the gate.
func (g *gate) suspend() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.suspended.Store(true)
}

// stopped reports whether the goroutine has returned.
func (g *gate) stopped() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.running
}
