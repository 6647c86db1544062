package listen

import (
	"sync"
	"sync/atomic"
)

// gate suspends and resumes the goroutine that takes clients of a socket.
//
//	             start                suspend
//	closed ────────────────▶ open ◀────────────▶ suspended, and still running
//	   ▲                       ▲       resume         │ the goroutine returns
//	   │ the socket is closed  │ resume               ▼
//	   └───────────────────────┴───────────────── suspended
type gate struct {
	suspended atomic.Bool // changed under mu

	mu      sync.Mutex // guards running
	running bool
}

// run runs take until it returns false, or true and the gate is suspended. take returns
// true when it has found the gate suspended, and false when the socket is closed or watched.
func (g *gate) run(take func() (suspended bool)) {
	for take() {
		g.mu.Lock()
		if g.suspended.Load() {
			g.running = false
			g.mu.Unlock()
			return
		}
		g.mu.Unlock() // resumed since
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running = false
}

// open opens the gate. It reports whether the caller must call run on a new goroutine.
func (g *gate) open() (start bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.suspended.Store(false)
	start = !g.running
	g.running = true
	return start
}

// restart makes a goroutine run again that has returned, unless the gate is suspended.
// It reports whether the caller must call run on a new goroutine.
func (g *gate) restart() (start bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	start = !g.running && !g.suspended.Load()
	g.running = g.running || start
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
