package netio

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// waiter waits for the events of an epoll instance. The leader of a [Poller] has one, and
// no other goroutine uses it.
//
// Usually the leader waits in Go's network poller, which wakes it when the gate reports
// events. It waits in epoll_wait(2) itself, and keeps its processor, while single events
// follow each other quickly, such as those of a client that waits for each answer. To give
// the processor up and get it back takes a fifth of such a client's round trip. The
// scheduler sees a goroutine that runs for as long. The gate is closed meanwhile, because
// each event would also wake the thread that waits in Go's poller.
//
//	          quick events, and the budget allows it
//	parking ------------------------------------------> keeping
//	(gate open) <------------------------------------ (gate closed)
//	      slower events, no event for 10 ms, a signal,
//	      or all processors are in use
type waiter struct {
	budget *ProcessorBudget

	// Tests set other functions.
	wait func(epoll int, events []unix.EpollEvent, atMost time.Duration) (n int) // epollWaitFor
	now  func() time.Time                                                        // time.Now

	keeps bool      // it has a processor of the budget, and the gate is closed
	idle  bool      // the latest wait has not ended
	since time.Time // when the latest wait began or ended

	// Moving averages.
	gap  time.Duration // of the waits
	work time.Duration // of the times between them
}

const (
	// The leader keeps its processor while both averages are below these. To give it up
	// takes time, in which more events become ready, and events cost less if many are
	// ready at once: with 8 clients that connect at a time, a connection costs 8 % more
	// if the leader keeps its processor.
	shortGap  = 500 * time.Microsecond
	shortWork = 40 * time.Microsecond
	// maxKept is the longest wait with a processor. A wait that ended before the kernel's
	// next tick, mostly in 4 ms, would set the timer of the hardware. On a virtual machine
	// that costs more than to give the processor up.
	maxKept = 10 * time.Millisecond
	// realWait is the shortest time in epoll_wait that counts as a wait.
	realWait = 2 * time.Microsecond
)

// gated holds the descriptors of an epoll instance and of its gate. The gate is another
// epoll instance, which watches the first and is watched by Go's poller.
type gated struct{ number, gate int }

// open makes the gate report events. op is EPOLL_CTL_ADD, or later EPOLL_CTL_MOD.
func (g gated) open(op int) error {
	return epollCtl(g.gate, op, g.number, Readable|EdgeTriggered, 0)
}

func newWaiter(budget *ProcessorBudget) *waiter {
	return &waiter{budget: budget, wait: epollWaitFor, now: time.Now, since: time.Now(), gap: maxKept}
}

// next returns how many events it has put into events. After none, the caller waits for
// the gate and calls next again. waited reports whether none were ready for a while.
func (w *waiter) next(g gated, events []unix.EpollEvent) (n int, waited bool) {
	if w.keeps {
		return w.nextKept(g, events)
	}
	n = epollWaitNonblock(g.number, events)
	switch {
	case n > 0 && w.idle:
		w.ended(w.now())
		return n, true
	case n > 0:
		return n, false
	case !w.idle:
		w.began(w.now())
		if w.quick() && w.keep(g) {
			return w.nextKept(g, events)
		}
	}
	return 0, true
}

// nextKept is next while the leader keeps its processor. With no events, it has given the
// processor back.
func (w *waiter) nextKept(g gated, events []unix.EpollEvent) (n int, waited bool) {
	began := w.now()
	n = w.wait(g.number, events, maxKept)
	now := w.now()
	waited = n == 0 || now.Sub(began) > realWait
	if waited && !w.idle {
		w.began(began)
	}
	if n > 0 {
		if w.idle {
			w.ended(now)
		}
		if w.quick() && w.budget.spare(now) {
			return n, waited
		}
	}
	w.giveBack(g)
	if n == 0 {
		// Of events before giveBack, the gate reports none that it has reported before.
		if n = epollWaitNonblock(g.number, events); n > 0 {
			w.ended(now)
		}
	}
	return n, waited
}

// began records that the leader ran out of events.
func (w *waiter) began(now time.Time) {
	w.work = average(w.work, now.Sub(w.since))
	w.idle, w.since = true, now
}

// ended records that there were events again.
func (w *waiter) ended(now time.Time) {
	w.gap = average(w.gap, now.Sub(w.since))
	w.idle, w.since = false, now
}

// average returns a moving average after one more value. A value counts as maxKept at most,
// so that a pause is soon forgotten.
func average(old, value time.Duration) time.Duration { return old + (min(value, maxKept)-old)/8 }

// quick reports whether single events follow each other quickly.
func (w *waiter) quick() bool { return w.gap < shortGap && w.work < shortWork }

// keep takes a processor from the budget and closes the gate. It reports whether it could.
func (w *waiter) keep(g gated) bool {
	if !w.budget.take(w.since) {
		return false
	}
	if epollCtl(g.gate, unix.EPOLL_CTL_MOD, g.number, 0, 0) != nil {
		w.budget.put()
		return false
	}
	w.keeps = true
	// This makes the scheduler wake another thread, which then waits in Go's poller for the
	// events of the rest of the process. Until now, the leader's own thread did.
	runtime.Gosched()
	return true
}

// giveBack undoes keep.
func (w *waiter) giveBack(g gated) {
	w.keeps = false
	w.budget.put()
	if g.open(unix.EPOLL_CTL_MOD) != nil {
		panic("netio: a gate cannot be opened")
	}
}

// end is called once, after the gate was closed for good.
func (w *waiter) end() {
	if w.keeps {
		w.budget.put()
	}
}
