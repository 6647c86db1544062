package netio

import (
	"math/rand/v2"
	"runtime"
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
	c.Poller = NewPoller(workers, func() (Run[*owner], error) {
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
	p = NewPoller(2, start)
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

// counted is an owner that counts what its near end receives.
type counted struct {
	owner
	mu       sync.Mutex // guards the fields below and token
	received int
	left     bool
}

// take reads at most limit bytes, and reports whether there may be more.
func (o *counted) take(limit int) (more bool) {
	buf := make([]byte, limit)
	n, _ := ReadNonblock(o.near, buf)
	o.received += max(n, 0)
	return n == limit
}

// Owners come and go while several workers handle events, and nothing is lost: each
// byte is read once, by an owner that has not left.
func TestWorkersStress(t *testing.T) {
	relaytest.NoLeaks(t)
	before := relaytest.OpenDescriptors(t)
	const workers = 3
	var runs, ends, turns, helped atomic.Int32
	var p *Poller[*counted]
	turn := func(ready []Ready[*counted]) {
		if n := turns.Add(1); n > workers {
			t.Errorf("%d turns at a time", n)
		} else if n > 1 {
			helped.Add(1)
		}
		defer turns.Add(-1)
		for _, event := range ready {
			o := event.Value
			o.mu.Lock()
			if !o.left && o.token == event.Token && o.take(3) {
				if err := p.Change(o.token, o.near, Readable|EdgeTriggered); err != nil {
					t.Error(err)
				}
			}
			o.mu.Unlock()
		}
	}
	p = NewPoller(workers, func() (Run[*counted], error) {
		runs.Add(1)
		return &stressRun{turn, &ends}, nil
	})
	p.AlwaysHelp()
	var writers sync.WaitGroup
	for n := range 24 {
		writers.Go(func() { // ends after its owners
			random := rand.New(rand.NewPCG(uint64(n), 2))
			for range 12 {
				stressOwner(t, p, random)
				if n == 0 {
					p.StopIfIdle() // which it rarely is
				}
			}
		})
	}
	writers.Wait()
	p.StopWhenIdle()
	relaytest.Eventually(t, "the end of all runs", func() bool { return ends.Load() == runs.Load() })
	relaytest.Eventually(t, "all descriptors to be closed", func() bool { return relaytest.OpenDescriptors(t) <= before })
	if helped.Load() == 0 {
		t.Error("no helper has run")
	}
}

type stressRun struct {
	turn func([]Ready[*counted])
	ends *atomic.Int32
}

func (r *stressRun) Turn(ready []Ready[*counted]) { r.turn(ready) }
func (r *stressRun) End()                         { r.ends.Add(1) }

// stressOwner is the life of one owner. It may be unwatched and watched again while its
// bytes arrive.
func stressOwner(t *testing.T, p *Poller[*counted], random *rand.Rand) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
		return
	}
	o := &counted{owner: owner{near: fds[0], far: fds[1]}}
	watch := func() {
		if o.token, err = p.Watch(o.slot, 1, o.near, Readable|EdgeTriggered); err != nil {
			t.Error(err)
		}
	}
	o.mu.Lock()
	if o.slot, err = p.Join(o); err != nil {
		t.Error(err)
	}
	watch()
	o.mu.Unlock()
	sent := 0
	for range random.IntN(60) {
		n, err := unix.Write(o.far, make([]byte, 1+random.IntN(20)))
		if err != nil {
			t.Error(err)
		}
		sent += n
		if random.IntN(10) == 0 {
			o.mu.Lock()
			p.Unwatch(o.token, o.near)
			watch()
			o.mu.Unlock()
		}
	}
	received := func() int {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.received
	}
	for deadline := time.Now().Add(relaytest.Limit); received() != sent; time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Errorf("received %d bytes of %d", received(), sent)
			break
		}
	}
	o.mu.Lock()
	o.left = true
	p.Leave(o.slot)
	o.mu.Unlock()
	o.close()
}

// On one processor, events that never cease let other goroutines run all the same, and
// do not wait for the system to stop this one after ten turns.
func TestPollerYieldsOnOneProcessor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var ran atomic.Bool
	turns := 0 // until another goroutine has run
	c := newCrew(t, 1, func(int32, []Ready[*owner]) {
		if ran.Load() {
			return
		}
		if turns++; turns == 1 {
			go ran.Store(true)
		}
		for began := time.Now(); time.Since(began) <= maxBusy; {
		}
	})
	o := newOwner(t, c.Poller, Readable) // level-triggered
	o.write(t)
	relaytest.Eventually(t, "the other goroutine", ran.Load)
	c.leave(o)
	c.StopIfIdle()
	c.wantEnds(t)
	if turns > 3 {
		t.Errorf("%d turns before another goroutine has run", turns)
	}
}

// A goroutine yields if the poller's goroutines may have all processors, or for a helper
// that has not begun.
func TestCrowded(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(3))
	for _, test := range []struct {
		helpers, calls int32
		want           bool
	}{
		{0, 0, false}, {1, 0, false}, {2, 0, true}, {3, 0, true}, {1, 1, true},
	} {
		var e epoll[*owner]
		e.helpers.Store(test.helpers)
		e.calls.Store(test.calls)
		if got := e.crowded(); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

// The estimate of the time of an event follows it, and is not misled by one turn in
// which the system had stopped the thread.
func TestMeasure(t *testing.T) {
	const us = time.Microsecond
	for name, test := range map[string]struct {
		start time.Duration
		turns []time.Duration // each with 4 events
		least time.Duration
		most  time.Duration
	}{
		"steady":                      {10 * us, turnsOf(40*us, 100), 9 * us, 11 * us},
		"an outlier":                  {10 * us, []time.Duration{time.Second}, 10 * us, 14 * us},
		"an outlier is forgotten":     {10 * us, append([]time.Duration{time.Second}, turnsOf(40*us, 30)...), 10 * us, 11 * us},
		"slower":                      {10 * us, turnsOf(4000*us, 40), 900 * us, 1000 * us},
		"faster":                      {1000 * us, turnsOf(40*us, 80), 9 * us, 11 * us},
		"from nothing":                {0, turnsOf(40*us, 100), 9 * us, 11 * us},
		"a coarse clock":              {2, turnsOf(4000*us, 60), 900 * us, 1000 * us},
		"a clock that does not move":  {0, turnsOf(0, 10), 0, 0},
		"after one that did not move": {1, turnsOf(4000*us, 60), 900 * us, 1000 * us},
	} {
		t.Run(name, func(t *testing.T) {
			w := &worker[*owner]{took: test.start, ready: make([]Ready[*owner], 4)}
			for _, turn := range test.turns {
				w.measure(turn)
			}
			if w.took < test.least || w.took > test.most {
				t.Errorf("took %v, want %v to %v", w.took, test.least, test.most)
			}
		})
	}
}

func turnsOf(d time.Duration, n int) (list []time.Duration) {
	for range n {
		list = append(list, d)
	}
	return list
}
