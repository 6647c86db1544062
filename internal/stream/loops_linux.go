package stream

import (
	"runtime"
	"sync/atomic"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// loops is the [Engine] of Linux: about one event loop per processor. A relay at
// rest has no goroutine, buffer, pipe or timer.
type loops struct {
	all  []*loop // set once
	next atomic.Uint32
}

// loop is an event loop. It runs while it has relays.
type loop struct {
	poller *netio.Poller[*loopMover]

	// Set by tests before the first relay; otherwise nil.
	inject func(*loopMover) // makes an event panic
	pipe   *pipe            // of the first run
}

// NewEngine returns an engine with event loops, or nil if RELAY_DISABLE has
// engine. It runs no goroutine while it has no relays.
func NewEngine() Engine {
	if netio.Disabled("engine") {
		return nil
	}
	return newLoops(runtime.GOMAXPROCS(0))
}

func newLoops(n int) *loops {
	e := &loops{all: make([]*loop, n)}
	for i := range e.all {
		l := &loop{}
		l.poller = netio.NewPoller(func() (netio.Run[*loopMover], error) { return l.newRun(), nil })
		e.all[i] = l
	}
	return e
}

// StopWhenIdle makes each loop stop as soon as it has no relays, without a linger
// time. Tests use it to check that nothing is left running.
func (e *loops) StopWhenIdle() {
	for _, l := range e.all {
		l.poller.StopWhenIdle()
	}
}

// NewMover implements [Engine].
func (e *loops) NewMover(client Client, rules Rules, wheel *Wheel) Connector {
	if client.Detach == nil {
		return nil
	}
	fd, err := client.Detach()
	if err != nil {
		return nil
	}
	return newLoopMover(e.all[e.next.Add(1)%uint32(len(e.all))], fd, client, rules, wheel)
}

// loopRun is one run of a loop, the time during which it has a goroutine.
type loopRun struct {
	work workspace // of all relays of the loop

	// Relays with more to do than one turn allowed: from the turn before, and
	// from this one.
	before, now []*loopMover
}

// yieldEvents is how many events of a turn show that the loop is busy. A busy loop
// never waits, so another loop, whose events the same thread has noticed, would have
// to wait until the kernel schedules a thread for it. A loop with few events does
// not yield, because that also wakes an idle processor.
const yieldEvents = 4

func (l *loop) newRun() *loopRun {
	p := l.pipe
	if p == nil {
		p = &pipe{off: netio.Disabled("splice")}
	}
	return &loopRun{work: workspace{buf: netio.GetBuffer(), pipe: p, calm: calmTurns}}
}

// Turn implements [netio.Run].
func (r *loopRun) Turn(ready []netio.Ready[*loopMover]) (more bool) {
	r.work.nextTurn()
	r.before, r.now = r.now, r.before[:0]
	for _, event := range ready {
		m := event.Value
		r.queueIf(m.handleEvent(event.Token, event.Events, &r.work), m)
	}
	for _, m := range r.before {
		m.queued = false
		r.queueIf(m.resume(&r.work), m)
	}
	clear(r.before) // release the relays that ended
	more = len(r.now) > 0
	if len(ready) >= yieldEvents || more && r.work.calm < calmTurns {
		runtime.Gosched()
	}
	return more
}

func (r *loopRun) queueIf(more bool, m *loopMover) {
	if more && !m.queued {
		m.queued = true
		r.now = append(r.now, m)
	}
}

// End implements [netio.Run].
func (r *loopRun) End() {
	r.work.buf.Free()
	r.work.pipe.close()
}
