package netio

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// waiting is how the leader of a [Poller] waits for events. It is used by that goroutine
// only.
//
// Usually the leader waits in Go's network poller, which wakes it when the gate reports
// that there are events. While single events follow each other quickly, as those of a
// client that waits for each answer, it waits in epoll_wait(2) itself instead and keeps
// its processor, within the budget: to give the processor up and get it back would take
// a fifth of such a client's round trip. For the scheduler it is a goroutine that runs
// that long. The gate is closed meanwhile, or each event would also wake the thread
// that waits in Go's poller.
type waiting struct {
	budget *ProcessorBudget
	wait   func(epoll int, events []unix.EpollEvent, atMost time.Duration) (n int, interrupted bool) // epollWait; tests set another one

	keeps bool      // it has a processor of the budget, and the gate is closed
	idle  bool      // the latest wait has not ended
	since time.Time // when the latest wait began or ended

	// Moving averages.
	gap  time.Duration // of the waits
	work time.Duration // of the times between them
}

const (
	// The leader keeps its processor while both averages are below these. To give it up
	// takes time in which more events become ready. Where there are many at once they
	// cost less: with 8 clients that connect at a time, a connection costs 8 % more if the
	// leader keeps its processor.
	shortGap  = 500 * time.Microsecond
	shortWork = 40 * time.Microsecond
	// maxKept is the longest wait with a processor. If it were below the kernel's tick,
	// mostly 4 ms, each wait would set the hardware's timer, which costs more on a
	// virtual machine than to give up the processor.
	maxKept = 10 * time.Millisecond
	// realWait is the shortest time in epoll_wait that counts as a wait.
	realWait = 2 * time.Microsecond
)

// gated are the descriptors of an epoll instance, and of its gate: another one, which is
// in Go's poller and watches the first.
type gated struct{ number, gate int }

// open makes the gate report events. op is EPOLL_CTL_ADD, or later EPOLL_CTL_MOD.
func (g gated) open(op int) error {
	return epollCtl(g.gate, op, g.number, Readable|EdgeTriggered, 0)
}

func newWaiting(budget *ProcessorBudget) *waiting {
	return &waiting{budget: budget, wait: epollWait, since: time.Now(), gap: maxKept}
}

// next returns how many events it has put into events. After none, the caller waits for
// the gate and calls next again. waited reports whether none were ready for a while.
func (w *waiting) next(g gated, events []unix.EpollEvent) (n int, waited bool) {
	if w.keeps {
		return w.nextKept(g, events)
	}
	n = epollWaitNonblock(g.number, events)
	switch {
	case n > 0 && w.idle:
		w.ended(time.Now())
		return n, true
	case n > 0:
		return n, false
	case !w.idle:
		w.began(time.Now())
		if w.quick() && w.keep(g) {
			return w.nextKept(g, events)
		}
	}
	return 0, true
}

// nextKept is next with a processor of the budget. It returns none if the leader has
// given the processor back.
func (w *waiting) nextKept(g gated, events []unix.EpollEvent) (n int, waited bool) {
	began := time.Now()
	n, interrupted := w.wait(g.number, events, maxKept)
	now := time.Now()
	switch {
	case now.Sub(began) > realWait:
		if !w.idle {
			w.began(began)
		}
		if n > 0 || !interrupted {
			w.ended(now)
		}
		waited = true
	case n > 0:
		w.idle = false
	}
	if n > 0 && w.quick() && w.budget.spare(now) {
		return n, waited
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

// began records that the leader has nothing to do from now on.
func (w *waiting) began(now time.Time) {
	w.work = average(w.work, now.Sub(w.since))
	w.idle, w.since = true, now
}

// ended records that it has.
func (w *waiting) ended(now time.Time) {
	w.gap = average(w.gap, now.Sub(w.since))
	w.idle, w.since = false, now
}

// average returns a moving average with one more value, of which at most maxKept counts.
func average(so, value time.Duration) time.Duration { return so + (min(value, maxKept)-so)/8 }

// quick reports whether single events follow each other quickly.
func (w *waiting) quick() bool { return w.gap < shortGap && w.work < shortWork }

// keep makes the leader keep its processor from now on, and reports whether it may.
func (w *waiting) keep(g gated) bool {
	if !w.budget.take(w.since) {
		return false
	}
	if epollCtl(g.gate, unix.EPOLL_CTL_MOD, g.number, 0, 0) != nil {
		w.budget.put()
		return false
	}
	w.keeps = true
	// The scheduler wakes a thread here, and that waits in Go's poller, for events of all
	// others, which the leader's own thread has done until now.
	runtime.Gosched()
	return true
}

// giveBack ends what keep has begun.
func (w *waiting) giveBack(g gated) {
	w.keeps = false
	w.budget.put()
	if g.open(unix.EPOLL_CTL_MOD) != nil {
		panic("netio: a gate cannot be opened")
	}
}

// end is called once, after the gate was closed for good.
func (w *waiting) end() {
	if w.keeps {
		w.budget.put()
	}
}
