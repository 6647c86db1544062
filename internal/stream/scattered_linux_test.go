package stream

import (
	"sync"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// newScattered returns an engine with one loop, whose events are handled each by a
// goroutine of its own, a few at a time: so events of one relay are handled at the same
// time, and in any order. It is nil if there are no event loops.
func newScattered() Engine {
	if NewEngine(nil) == nil {
		return nil
	}
	engine := newLoops(1, 1, nil)
	l := engine.all[0]
	l.poller = netio.NewPoller(1, nil, func() (netio.Run[member], error) { return newScatteredRun(l), nil })
	return engine
}

// scatteredRun is the run of such a loop.
type scatteredRun struct {
	free    chan *loopRun // whose workspace no event uses
	handles sync.WaitGroup
}

func newScatteredRun(l *loop) *scatteredRun {
	r := &scatteredRun{free: make(chan *loopRun, 4)}
	for range cap(r.free) {
		r.free <- l.newRun()
	}
	return r
}

// Turn implements [netio.Run].
func (r *scatteredRun) Turn(ready []netio.Ready[member]) {
	for _, event := range ready {
		run := <-r.free
		r.handles.Go(func() { // ends with the event
			run.Turn([]netio.Ready[member]{event})
			r.free <- run
		})
	}
}

// End implements [netio.Run].
func (r *scatteredRun) End() {
	r.handles.Wait()
	for range cap(r.free) {
		(<-r.free).End()
	}
}
