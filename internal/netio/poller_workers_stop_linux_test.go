package netio

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A poller stops while a helper has its turn, and starts again: each run ends once,
// the helper leaves the new instance alone, and no descriptor remains.
func TestStopWhileAHelperRuns(t *testing.T) {
	for name, stop := range map[string]func(*crew){
		"StopIfIdle":   func(c *crew) { c.StopIfIdle() },
		"StopWhenIdle": func(c *crew) { c.StopWhenIdle() },
	} {
		t.Run(name, func(t *testing.T) {
			before := relaytest.OpenDescriptors(t)
			helps, open := make(chan struct{}), make(chan struct{})
			c, began, release, reports := gatedCrew(t, 2, func(run int32) {
				if run == 2 {
					close(helps)
					<-open
				}
			})
			c.AlwaysHelp()
			owners := c.join(t, 2)
			c.gather(t, owners[0], began, release, func() {
				for _, o := range owners {
					o.write(t)
				}
			})
			relaytest.Receive(t, "the helper's turn", helps)
			for len(reports) < 2 { // the leader's part
				runtime.Gosched()
			}
			c.leave(owners...)
			stop(c)
			relaytest.Eventually(t, "the end of the leader's run", func() bool { return c.ends.Load() == 1 })

			next := newOwner(t, c.Poller, Readable|EdgeTriggered) // in an instance that may have the same number
			next.write(t)
			for run := int32(0); run != 3; {
				r := relaytest.Receive(t, "the next run", reports)
				if run = r.run; run == 3 && r.ready[0].Value != next {
					t.Error("the next run got an event of a former owner")
				}
			}
			close(open)
			relaytest.Eventually(t, "the end of the helper's run", func() bool { return c.ends.Load() == 2 })
			next.write(t)
			if r := relaytest.Receive(t, "another turn", reports); r.run != 3 || r.ready[0].Value != next {
				t.Errorf("run %d got an event of the next run", r.run)
			}
			c.leave(next)
			c.StopIfIdle()
			c.wantEnds(t)
			if n := c.runs.Load(); n != 3 {
				t.Errorf("%d runs, want 3", n)
			}
			relaytest.Eventually(t, "all descriptors to be closed", func() bool { return relaytest.OpenDescriptors(t) <= before })
		})
	}
}

// Run.End may use the poller, also that of a helper.
func TestEndMayUseThePoller(t *testing.T) {
	relaytest.NoLeaks(t)
	ends := make(chan struct{}, 2)
	var p *Poller[*owner]
	start := func() (Run[*owner], error) {
		return &endingRun{func() { p.Owners(); ends <- struct{}{} }}, nil
	}
	p = NewPoller(2, nil, start)
	p.AlwaysHelp()
	c := &crew{Poller: p}
	owners := c.join(t, 2)
	relaytest.Eventually(t, "a helper", func() bool {
		p.mu.Lock() // both events are harvested together
		for _, o := range owners {
			_, _ = unix.Write(o.far, []byte("x"))
		}
		p.mu.Unlock()
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.current.idle) == 1
	})
	c.leave(owners...)
	p.StopIfIdle()
	for range 2 {
		relaytest.Receive(t, "the end", ends)
	}
}

// endingRun is a run that does nothing but end.
type endingRun struct{ end func() }

func (*endingRun) Turn([]Ready[*owner]) {}
func (r *endingRun) End()               { r.end() }
