package netio

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

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

// A goroutine calls a helper for much work, and earlier if its events are heavy.
func TestNeedsHelp(t *testing.T) {
	const us = time.Microsecond
	for _, test := range []struct {
		events int
		took   time.Duration
		want   bool
	}{
		{1, 0, false},
		{256, 3 * us, false},
		{256, 4 * us, true},
		{20, 40 * us, false}, // not heavy
		{3, 60 * us, false},
		{4, 60 * us, true},
		{1, 300 * us, true}, // which callHelp cannot share
	} {
		w := worker[*owner]{took: test.took}
		if got := w.needsHelp(test.events, helpFrom); got != test.want {
			t.Errorf("%+v: %t", test, got)
		}
	}
}
