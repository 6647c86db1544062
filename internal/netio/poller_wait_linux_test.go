package netio

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// waiterRig is a waiter whose gate is watched as by Go's poller. Its time stands still, but
// for waits with a processor.
type waiterRig struct {
	*waiter
	clock time.Time
	gated
	outer  int    // an epoll instance
	socket [2]int // events of the first are waited for
	events [8]unix.EpollEvent
}

func newWaiterRig(t *testing.T, budget *ProcessorBudget) *waiterRig {
	t.Helper()
	old := runtime.GOMAXPROCS(2)
	r := &waiterRig{waiter: newWaiter(budget)}
	r.clock = r.since
	r.waiter.now = func() time.Time { return r.clock }
	for _, fd := range []*int{&r.number, &r.gate, &r.outer} {
		var err error
		*fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		relaytest.Check(t, err)
	}
	var err error
	r.socket, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	relaytest.Check(t, err)
	t.Cleanup(func() {
		for _, fd := range []int{r.number, r.gate, r.outer, r.socket[0], r.socket[1]} {
			CloseDescriptor(fd)
		}
		runtime.GOMAXPROCS(old)
	})
	relaytest.Check(t, epollCtl(r.number, unix.EPOLL_CTL_ADD, r.socket[0], Readable|EdgeTriggered, 0))
	relaytest.Check(t, r.open(unix.EPOLL_CTL_ADD))
	relaytest.Check(t, epollCtl(r.outer, unix.EPOLL_CTL_ADD, r.gate, Readable|EdgeTriggered, 0))
	r.gap = 0
	return r
}

// event makes an event.
func (r *waiterRig) event(t *testing.T) {
	t.Helper()
	_, err := unix.Write(r.socket[1], []byte("x"))
	relaytest.Check(t, err)
}

// woken reports whether Go's poller would wake the leader.
func (r *waiterRig) woken() bool { return epollWaitNonblock(r.outer, r.events[:]) > 0 }

func (r *waiterRig) mustNext(t *testing.T, want int) {
	t.Helper()
	if n, _ := r.next(r.gated, r.events[:]); n != want {
		t.Fatalf("%d events, want %d", n, want)
	}
}

// mustKeep waits for an event, with a processor.
func (r *waiterRig) mustKeep(t *testing.T) {
	t.Helper()
	if r.mustNext(t, 1); !r.keeps {
		t.Fatal("the leader has not kept its processor")
	}
}

// mustBeOpen makes an event that the gate must report.
func (r *waiterRig) mustBeOpen(t *testing.T) {
	t.Helper()
	if r.event(t); !r.woken() {
		t.Error("the gate is closed")
	}
}

// returns makes the next waits with a processor return this after what do does, and take
// longer than realWait.
func (r *waiterRig) returns(t *testing.T, interrupted bool, do func()) {
	r.wait = func(epoll int, events []unix.EpollEvent, atMost time.Duration) int {
		if atMost != maxKept {
			t.Errorf("a wait of up to %v, want %v", atMost, maxKept)
		}
		r.clock = r.clock.Add(2 * realWait)
		if do(); interrupted {
			return 0
		}
		return epollWaitNonblock(epoll, events)
	}
}

// While the leader keeps its processor, events do not wake Go's poller; otherwise they do.
func TestGate(t *testing.T) {
	r := newWaiterRig(t, ample())
	r.event(t)
	if !r.woken() {
		t.Error("the gate is closed at first")
	}
	r.mustNext(t, 1)
	r.returns(t, false, func() {
		if r.event(t); r.woken() {
			t.Error("the event has also woken Go's poller")
		}
	})
	r.mustKeep(t)
	r.returns(t, false, func() {})
	r.mustNext(t, 0)
	if r.keeps || r.budget.kept != 0 {
		t.Fatal("the leader has kept its processor after a wait without an event")
	}
	r.mustBeOpen(t)
	r.mustNext(t, 1)
}

// An event between an interrupted wait and the opening of the gate is not lost. The kernel
// does not report it: the gate has been in its list of ready descriptors since the first event.
func TestEventAfterAnInterruptedWait(t *testing.T) {
	r := newWaiterRig(t, ample())
	for range 3 {
		r.event(t)
		if !r.woken() {
			t.Fatal("not woken")
		}
		r.mustNext(t, 1)
		r.returns(t, true, func() { r.event(t) })
		r.mustNext(t, 1)
		if r.keeps {
			t.Error("the leader has kept its processor after a signal")
		}
		r.gap = 2 * shortGap
		r.mustNext(t, 0) // it waits for the gate
		r.gap, r.work = 0, 0
	}
}

// The leader keeps its processor only while both averages are low and the budget allows
// it.
func TestWhenTheLeaderKeepsItsProcessor(t *testing.T) {
	busy := 2
	for name, test := range map[string]struct {
		budget    *ProcessorBudget
		gap, work time.Duration
		want      bool
	}{
		"quick events":          {ample(), 0, 0, true},
		"a slow client":         {ample(), shortGap + maxKept/8, 0, false},
		"many events at once":   {ample(), 0, 2 * shortWork, false},
		"no budget":             {nil, 0, 0, false},
		"all processors in use": {fakeBudget(&busy), 0, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newWaiterRig(t, test.budget)
			r.returns(t, false, func() { r.event(t) })
			r.gap, r.work = test.gap, test.work
			if n, _ := r.next(r.gated, r.events[:]); r.keeps != test.want || (n == 1) != test.want {
				t.Errorf("keeps its processor: %v, %d events", r.keeps, n)
			}
			r.end()
			if test.budget != nil && test.budget.kept != 0 {
				t.Error("the processor was not given back")
			}
		})
	}
}

// A kept processor is given back when the averages rise or others need it.
func TestWhenTheLeaderGivesItsProcessorBack(t *testing.T) {
	used := 1
	for name, change := range map[string]func(*waiterRig){
		"a slow client":         func(r *waiterRig) { r.gap = 2 * shortGap },
		"many events at once":   func(r *waiterRig) { r.work = 2 * shortWork },
		"all processors in use": func(r *waiterRig) { used, r.budget.looked = 2, time.Time{} },
	} {
		t.Run(name, func(t *testing.T) {
			used = 1
			r := newWaiterRig(t, fakeBudget(&used))
			r.returns(t, false, func() { r.event(t) })
			r.mustKeep(t)
			change(r)
			r.mustNext(t, 1)
			if r.keeps || r.budget.kept != 0 {
				t.Error("the leader still keeps its processor")
			}
			r.mustBeOpen(t)
		})
	}
}

// The averages follow how long the leader waits, and how long it does not.
func TestWaiterAverages(t *testing.T) {
	const us = time.Microsecond
	for name, test := range map[string]struct {
		pause     time.Duration // before all else
		gap, work time.Duration
		rounds    int
		want      bool
	}{
		"at first":                   {0, 80 * us, 10 * us, 1, false},
		"a client that never pauses": {0, 80 * us, 10 * us, 40, true},
		"a client that often pauses": {0, 900 * us, 10 * us, 100, false},
		"much to do between waits":   {0, 80 * us, 100 * us, 100, false},
		"after a long pause":         {time.Hour, 80 * us, 10 * us, 5, false},
		"long after it":              {time.Hour, 80 * us, 10 * us, 40, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWaiter(nil)
			w.began(w.since)
			now := w.since.Add(test.pause)
			w.ended(now)
			for range test.rounds {
				now = now.Add(test.work)
				w.began(now)
				now = now.Add(test.gap)
				w.ended(now)
			}
			if w.quick() != test.want {
				t.Errorf("quick %v with averages %v and %v", w.quick(), w.gap, w.work)
			}
		})
	}
}

// After a signal, the leader continues to wait in Go's poller. The averages count one wait
// for both parts, and no work.
func TestWaiterAveragesOfAWaitInTwoParts(t *testing.T) {
	r := newWaiterRig(t, ample())
	r.returns(t, false, func() { r.event(t) })
	r.mustNext(t, 1)
	r.returns(t, true, func() { r.clock = r.clock.Add(-2 * realWait) })
	n, waited := r.next(r.gated, r.events[:])
	if n != 0 || !waited || !r.idle || r.keeps {
		t.Fatalf("%d events, waited %v, idle %v, keeps its processor %v", n, waited, r.idle, r.keeps)
	}
	work := r.work
	r.clock = r.clock.Add(time.Hour)
	r.mustNext(t, 0) // Go's poller may wake it for nothing
	r.event(t)
	r.mustNext(t, 1)
	if r.work != work || r.gap < maxKept/8 || r.idle {
		t.Errorf("work %v, want %v; gap %v; idle %v", r.work, work, r.gap, r.idle)
	}
}

// The averages count one wait if the leader takes a processor of the budget at its begin.
func TestWaiterAveragesOfTheFirstWait(t *testing.T) {
	r := newWaiterRig(t, ample())
	r.returns(t, false, func() { r.event(t) })
	r.work = 32 * time.Microsecond
	r.mustNext(t, 1)
	if r.work != 28*time.Microsecond || r.gap != 2*realWait/8 {
		t.Errorf("work %v, gap %v", r.work, r.gap)
	}
}

// A wait with a processor is reported as one, so that the poller does not yield.
func TestWaiterReportsAWait(t *testing.T) {
	r := newWaiterRig(t, ample())
	r.returns(t, false, func() { r.event(t) })
	for range 2 { // the second time, it keeps its processor already
		if n, waited := r.next(r.gated, r.events[:]); n != 1 || !waited || r.idle {
			t.Errorf("%d events, waited %v, idle %v", n, waited, r.idle)
		}
	}
	r.returns(t, false, func() { r.event(t); r.clock = r.clock.Add(-realWait) })
	if n, waited := r.next(r.gated, r.events[:]); n != 1 || waited {
		t.Errorf("%d events, waited %v although they were ready", n, waited)
	}
}

// Before it keeps its processor the leader yields, so that the scheduler makes another
// thread wait in Go's poller. Otherwise events of the rest of the process would wait
// for the monitor thread, for up to 10 ms.
func TestLeaderYieldsBeforeItKeepsItsProcessor(t *testing.T) {
	r := newWaiterRig(t, ample())
	runtime.GOMAXPROCS(1)
	var ran atomic.Bool
	for range 2 { // the scheduler looks elsewhere first in every 61st turn
		go ran.Store(true)
		r.budget.kept = -1 // as if there were more processors
		r.budget.looked = r.since
		if !r.keep(r.gated) {
			t.Fatal("the leader may not keep its processor")
		}
		r.giveBack(r.gated)
	}
	if !ran.Load() {
		t.Error("no other goroutine has run")
	}
}

// A client that waits for each answer gets all of them, whatever interrupts the leader.
func TestQuickEventsWhileSignalsInterrupt(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	relaytest.NoLeaks(t)
	answered, ends := make(chan struct{}, 1), make(chan struct{}, 1)
	p := NewPoller(1, ample(), func() (Run[*owner], error) {
		return &recorder{func(ready []Ready[*owner]) {
			var buf [8]byte
			if n, _ := ReadNonblock(ready[0].Value.near, buf[:]); n > 0 {
				answered <- struct{}{}
			}
		}, ends}, nil
	})
	o := newOwner(t, p, Readable|EdgeTriggered)
	stop := make(chan struct{})
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC() // stops the world with signals
			}
		}
	}()
	for range 3000 {
		o.write(t)
		relaytest.Receive(t, "the event", answered)
	}
	close(stop)
	<-collected
	p.Leave(o.slot)
	o.close()
	p.StopIfIdle()
	relaytest.Receive(t, "the end", ends)
	if p.budget.kept != 0 {
		t.Error("a processor was not given back")
	}
}

// A poller that is stopped while its leader waits with a processor can be used at once:
// its lock is not held until that wait ends.
func TestStopWhileTheLeaderKeepsItsProcessor(t *testing.T) {
	relaytest.NoLeaks(t)
	p, runs, ends := newRecorder(func([]Ready[*owner]) {})
	first := newOwner(t, p, Readable|EdgeTriggered)
	relaytest.Receive(t, "the start", runs)
	p.mu.Lock()
	stuck := p.current
	p.mu.Unlock()
	inside, release := make(chan struct{}), make(chan struct{})
	gate, err := stuck.wake.SyscallConn()
	relaytest.Check(t, err)
	go func() { // close waits for it, as for a leader in next
		_ = gate.Control(func(uintptr) { close(inside); <-release })
	}()
	relaytest.Receive(t, "the reference", inside)
	p.Leave(first.slot)
	first.close()
	stopped := make(chan struct{})
	go func() { p.StopIfIdle(); close(stopped) }()
	relaytest.Eventually(t, "the end of the instance", func() bool {
		if !p.mu.TryLock() {
			return false
		}
		defer p.mu.Unlock()
		return p.current != stuck
	})
	second := newOwner(t, p, Readable|EdgeTriggered)
	close(release)
	relaytest.Receive(t, "the return of StopIfIdle", stopped)
	p.Leave(second.slot)
	second.close()
	p.StopIfIdle()
	relaytest.Receive(t, "the end", ends)
}
