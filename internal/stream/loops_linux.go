package stream

import (
	"runtime"
	"sync/atomic"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// loops is the [Engine] of Linux: one event loop for up to loopWorkers processors. A
// relay at rest has no goroutine, buffer, pipe or timer.
type loops struct {
	all  []*loop // set once
	next atomic.Uint32
}

// loopWorkers is how many goroutines one event loop has at most. Relays of a loop share
// them, so one that moves much does not delay the others; but too many of them would
// contend for the kernel's lock of the loop.
const loopWorkers = 4

// loop is an event loop. It runs while it has relays.
type loop struct {
	poller *netio.Poller[member]

	// Set by tests before the first relay; otherwise nil.
	inject func(*loopMover) // makes an event panic
	pipe   *pipe            // of the run, if there is one worker
}

// member is what an event loop serves: a [loopMover] or a watched socket.
type member interface {
	// handle handles the events of one descriptor.
	handle(token netio.Token, events netio.Events, w *workspace)
}

// watched is a socket of [loops.Watch].
type watched struct{ readable func() }

func (w *watched) handle(netio.Token, netio.Events, *workspace) { w.readable() }

// NewEngine returns an engine with event loops, or nil if RELAY_DISABLE has
// engine. It runs no goroutine while it has no relays. budget is the process's; nil: no
// loop keeps its processor while it waits.
func NewEngine(budget *netio.ProcessorBudget) Engine {
	if netio.Disabled("engine") {
		return nil
	}
	processors := runtime.GOMAXPROCS(0)
	return newLoops((processors+loopWorkers-1)/loopWorkers, min(processors, loopWorkers), budget)
}

// newLoops returns an engine with n event loops of workers goroutines each, at most.
func newLoops(n, workers int, budget *netio.ProcessorBudget) *loops {
	e := &loops{all: make([]*loop, n)}
	for i := range e.all {
		l := &loop{}
		l.poller = netio.NewPoller(workers, budget, func() (netio.Run[member], error) { return l.newRun(), nil })
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

// nextLoop returns the event loops in turn.
func (e *loops) nextLoop() *loop { return e.all[e.next.Add(1)%uint32(len(e.all))] }

// NewMover implements [Engine].
func (e *loops) NewMover(client Client, rules Rules, wheel *Wheel) Connector {
	if client.Detacher == nil {
		return nil
	}
	fd, err := client.Detacher.Detach()
	if err != nil {
		return nil
	}
	return newLoopMover(e.nextLoop(), fd, client, rules, wheel)
}

// Watch makes an event loop call readable when the listening socket fd has new
// clients, until stop is called: again while there are more, and then by several
// goroutines at once. It must not block. stop must be called before fd is closed. More
// calls of readable may follow.
func (e *loops) Watch(fd int, readable func()) (stop func(), err error) {
	return e.nextLoop().poller.WatchUntil(&watched{readable}, fd, netio.Readable)
}

// loopRun is what one goroutine of a loop has while it runs.
type loopRun struct{ work workspace }

func (l *loop) newRun() *loopRun {
	p := l.pipe
	if p == nil {
		p = &pipe{off: netio.Disabled("splice")}
	}
	return &loopRun{work: workspace{buf: netio.GetBuffer(), pipe: p, calm: calmEvents}}
}

// Turn implements [netio.Run].
func (r *loopRun) Turn(ready []netio.Ready[member]) {
	for _, event := range ready {
		r.work.nextEvent()
		event.Value.handle(event.Token, event.Events, &r.work)
	}
}

// End implements [netio.Run].
func (r *loopRun) End() {
	r.work.buf.Free()
	r.work.pipe.close()
}
