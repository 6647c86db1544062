package netio

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// crew is a poller with several workers, and what the test observes of them.
type crew struct {
	*Poller[*owner]
	runs  atomic.Int32 // that were allocated
	ends  atomic.Int32 // calls of End
	turns atomic.Int32 // that are under way
	most  atomic.Int32 // turns at a time
}

// crewRun is the run of one worker.
type crewRun struct {
	crew   *crew
	number int32 // of the run, from 1
	ended  atomic.Bool
	turn   func(run int32, ready []Ready[*owner])
}

func (r *crewRun) Turn(ready []Ready[*owner]) {
	if r.ended.Load() {
		panic("netio: a turn after the end of its run")
	}
	now := r.crew.turns.Add(1)
	for most := r.crew.most.Load(); now > most && !r.crew.most.CompareAndSwap(most, now); most = r.crew.most.Load() {
	}
	r.turn(r.number, ready)
	r.crew.turns.Add(-1)
}

func (r *crewRun) End() {
	if r.ended.Swap(true) {
		panic("netio: a run has ended twice")
	}
	r.crew.ends.Add(1)
}

// newCrew returns a poller whose workers call turn.
func newCrew(t *testing.T, workers int, turn func(run int32, ready []Ready[*owner])) *crew {
	t.Helper()
	relaytest.NoLeaks(t)
	c := &crew{}
	c.Poller = NewPoller(workers, nil, func() (Run[*owner], error) {
		return &crewRun{crew: c, number: c.runs.Add(1), turn: turn}, nil
	})
	t.Cleanup(c.StopIfIdle)
	return c
}

// helpers returns how many helpers run.
func (c *crew) helpers() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int(c.current.helpers.Load())
}

// join returns n owners in the slots from 0.
func (c *crew) join(t *testing.T, n int) []*owner {
	t.Helper()
	owners := make([]*owner, n)
	for i := range owners {
		owners[i] = newOwner(t, c.Poller, Readable|EdgeTriggered)
		if owners[i].slot != Slot(i) {
			t.Fatalf("slot %d, want %d", owners[i].slot, i)
		}
	}
	return owners
}

// leave frees the slots of all owners and closes their descriptors.
func (c *crew) leave(owners ...*owner) {
	for _, o := range owners {
		c.Leave(o.slot)
		o.close()
	}
}

// wantEnds waits until each run that was allocated has ended.
func (c *crew) wantEnds(t *testing.T) {
	t.Helper()
	relaytest.Eventually(t, "the end of all runs", func() bool { return c.ends.Load() == c.runs.Load() })
}

// report is one turn of a run.
type report struct {
	run   int32
	ready []Ready[*owner]
}

// gather makes a harvest of several events: it writes while the first turn, which is
// that of owner, lasts.
func (c *crew) gather(t *testing.T, owner *owner, began <-chan struct{}, release chan<- struct{}, write func()) {
	t.Helper()
	owner.write(t)
	relaytest.Receive(t, "the first turn", began)
	write()
	release <- struct{}{}
}

// gatedCrew is a crew whose first turn waits for release; later ones are reported.
func gatedCrew(t *testing.T, workers int, later func(run int32)) (c *crew, began, release chan struct{}, reports chan report) {
	began, release, reports = make(chan struct{}), make(chan struct{}), make(chan report, 1000)
	var first atomic.Bool
	c = newCrew(t, workers, func(run int32, ready []Ready[*owner]) {
		if !first.Swap(true) {
			began <- struct{}{}
			<-release
			return
		}
		reports <- report{run, append([]Ready[*owner](nil), ready...)}
		later(run)
	})
	return c, began, release, reports
}

// After a turn that took long, the events of the next one are shared with a helper,
// which handles them at the same time.
func TestHelperAfterALongTurn(t *testing.T) {
	var both sync.WaitGroup
	both.Add(2)
	c, began, release, reports := gatedCrew(t, 2, func(int32) { both.Done(); both.Wait() })
	owners := c.join(t, 4)
	c.gather(t, owners[0], began, release, func() {
		for _, o := range owners[1:] {
			o.write(t)
		}
		owners[0].write(t)
		time.Sleep(20 * helpFrom)
	})
	got := make(map[int32]map[Slot]bool)
	for range 2 {
		r := relaytest.Receive(t, "both parts", reports)
		got[r.run] = make(map[Slot]bool)
		for _, event := range r.ready {
			got[r.run][event.Value.slot] = true
		}
	}
	for run, odd := range map[int32]bool{1: false, 2: true} {
		if len(got[run]) != 2 || got[run][1] != odd || got[run][3] != odd {
			t.Errorf("run %d got the events of the slots %v", run, got[run])
		}
	}
	c.leave(owners...)
	c.StopIfIdle()
	c.wantEnds(t)
}

// While turns take less time, there is no helper.
func TestNoHelperForLittle(t *testing.T) {
	c, began, release, reports := gatedCrew(t, 2, func(int32) {})
	c.helpFrom = time.Hour
	owners := c.join(t, 4)
	c.gather(t, owners[0], began, release, func() {
		for _, o := range owners {
			o.write(t)
		}
	})
	if r := relaytest.Receive(t, "the turn", reports); r.run != 1 || len(r.ready) != 4 {
		t.Errorf("run %d got %d events", r.run, len(r.ready))
	}
	if n := c.runs.Load(); n != 1 {
		t.Errorf("%d runs", n)
	}
	c.leave(owners...)
}

// watchBoth watches the far end, too, as the owner's other descriptor.
func (o *owner) watchBoth(t *testing.T, p *Poller[*owner]) {
	t.Helper()
	_, err := p.Watch(o.slot, 0, o.far, Readable|EdgeTriggered)
	relaytest.Check(t, err)
}

// writeBoth makes both descriptors readable.
func (o *owner) writeBoth(t *testing.T) {
	t.Helper()
	o.write(t)
	_, err := unix.Write(o.near, []byte("x"))
	relaytest.Check(t, err)
}

// The events of an owner's two descriptors that are shared go to one goroutine.
func TestHelperGetsBothDescriptors(t *testing.T) {
	for _, workers := range []int{2, 4} {
		c, began, release, reports := gatedCrew(t, workers, func(int32) {})
		c.AlwaysHelp()
		owners := c.join(t, 60)
		for _, o := range owners {
			o.watchBoth(t, c.Poller)
		}
		c.gather(t, owners[0], began, release, func() {
			for _, o := range owners {
				o.write(t)
			}
			for _, o := range owners {
				_, err := unix.Write(o.near, []byte("x"))
				relaytest.Check(t, err)
			}
		})
		for total := 0; total < 2*len(owners); {
			r := relaytest.Receive(t, "all events", reports)
			total += len(r.ready)
			events := make(map[*owner]int)
			for _, event := range r.ready {
				events[event.Value]++
			}
			for o, n := range events {
				if n != 2 {
					t.Errorf("run %d got %d of the two events of slot %d", r.run, n, o.slot)
				}
			}
		}
		if c.runs.Load() < 2 {
			t.Error("no helper was started")
		}
		c.leave(owners...)
	}
}

// Events of one owner start no helper, in whatever slot it is: it would only wait for
// the owner's lock.
func TestNoHelperForOneOwner(t *testing.T) {
	for slot := range 4 {
		c, began, release, reports := gatedCrew(t, 2, func(int32) {})
		c.AlwaysHelp()
		owners := c.join(t, 4)
		owners[slot].watchBoth(t, c.Poller)
		c.gather(t, owners[slot], began, release, func() { owners[slot].writeBoth(t) })
		if r := relaytest.Receive(t, "the turn", reports); r.run != 1 || len(r.ready) != 2 {
			t.Errorf("slot %d: run %d got %d events", slot, r.run, len(r.ready))
		}
		if n := c.runs.Load(); n != 1 {
			t.Errorf("slot %d: %d runs", slot, n)
		}
		c.leave(owners...)
	}
}

// A helper shares its events, too, until all workers run; there are never more.
func TestHelpersOfHelpers(t *testing.T) {
	for workers := 1; workers <= 4; workers++ {
		open := make(chan struct{})
		c, began, release, _ := gatedCrew(t, workers, func(int32) { <-open })
		c.AlwaysHelp()
		owners := c.join(t, 16)
		c.gather(t, owners[0], began, release, func() {
			for _, o := range owners {
				o.write(t)
			}
		})
		relaytest.Eventually(t, "all workers", func() bool { return int(c.turns.Load()) == workers })
		close(open)
		relaytest.Eventually(t, "the end of the helpers", func() bool { return c.helpers() == 0 })
		if got := int(c.most.Load()); got != workers {
			t.Errorf("%d turns at a time, want %d", got, workers)
		}
		c.leave(owners...)
		c.StopIfIdle()
		c.wantEnds(t)
		if got := int(c.runs.Load()); got != workers {
			t.Errorf("%d runs, want %d", got, workers)
		}
	}
}

// A helper that has nothing more to do ends. The next one uses its run.
func TestHelperEnds(t *testing.T) {
	reports := make(chan struct{}, 1000)
	c := newCrew(t, 2, func(_ int32, ready []Ready[*owner]) {
		for _, event := range ready {
			_, _ = ReadNonblock(event.Value.near, make([]byte, 1))
			reports <- struct{}{}
		}
	})
	c.AlwaysHelp()
	owners := c.join(t, 2)
	for range 300 {
		c.mu.Lock() // both events are harvested together
		for _, o := range owners {
			o.write(t)
		}
		c.mu.Unlock()
		for range owners {
			relaytest.Receive(t, "the events", reports)
		}
		relaytest.Eventually(t, "the end of the helper", func() bool { return c.helpers() == 0 })
	}
	if n := c.runs.Load(); n > 2 {
		t.Errorf("%d runs, want 2", n)
	}
	if n := c.current.calls.Load(); n != 0 {
		t.Errorf("%d helpers have not begun", n)
	}
	c.leave(owners...)
	c.StopIfIdle()
	c.wantEnds(t)
}
