package handler

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// ward is a schedule over a pool, whose probes take as long as the test says
// and write down when they begin.
type ward struct {
	pool  *upstream.Pool
	takes map[string]time.Duration // set before it runs

	mu     sync.Mutex // guards what follows
	began  map[string][]time.Time
	active map[string]int
	most   int // probes of one backend at a time
}

const wardInterval = time.Minute

func newWard(t *testing.T, backends ...string) *ward {
	return &ward{
		pool:   upstream.NewPool(backendAddresses(t, backends...), 0, time.Now()),
		takes:  make(map[string]time.Duration),
		began:  make(map[string][]time.Time),
		active: make(map[string]int),
	}
}

// run follows the schedule; end waits for its end.
func (w *ward) run() (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	s := schedule{interval: wardInterval, attend: w.attend, backends: func() (list []*upstream.Backend) {
		for _, s := range w.pool.Snapshot(time.Now()) {
			list = append(list, s.Backend)
		}
		return list
	}}
	go func() {
		defer close(over)
		s.run(ctx)
	}()
	return func() {
		cancel()
		<-over
	}
}

func (w *ward) attend(b *upstream.Backend) func(context.Context) {
	return func(ctx context.Context) {
		w.book(b, +1)
		defer w.book(b, -1)
		select {
		case <-time.After(w.takes[b.Text]):
		case <-ctx.Done():
			time.Sleep(time.Second) // what is under way takes a while to end
		}
	}
}

func (w *ward) book(b *upstream.Backend, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n > 0 {
		w.began[b.Text] = append(w.began[b.Text], time.Now())
	}
	w.active[b.Text] += n
	w.most = max(w.most, w.active[b.Text])
}

// times are when probes of a backend began.
func (w *ward) times(backend string) []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.began[backend])
}

// The first probe comes after a part of the interval, the others an interval
// later, give or take a tenth, and no two backends keep step.
func TestScheduleJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := []string{"a:1", "b:1", "c:1", "d:1", "e:1", "f:1", "g:1", "h:1"}
		w := newWard(t, names...)
		start := time.Now()
		end := w.run()
		time.Sleep(100 * wardInterval)
		end()
		firsts, gaps := make(map[time.Duration]bool), make(map[time.Duration]bool)
		for _, name := range names {
			times := w.times(name)
			first := times[0].Sub(start)
			if first < 0 || first >= wardInterval {
				t.Errorf("%s: first probe after %v", name, first)
			}
			firsts[first] = true
			for i, at := range times[1:] {
				gap := at.Sub(times[i])
				if gap < wardInterval*9/10 || gap > wardInterval*11/10 {
					t.Errorf("%s: %v between two probes", name, gap)
				}
				gaps[gap] = true
			}
		}
		if len(firsts) < len(names) || len(gaps) < 100 {
			t.Errorf("%d different beginnings and %d different gaps: where is the jitter?", len(firsts), len(gaps))
		}
	})
}

// Four silent backends are waited for at once, and hold up nobody else.
func TestScheduleIsParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := []string{"a:1", "b:1", "c:1", "d:1"}
		w := newWard(t, append(silent, "e:1")...)
		for _, name := range silent {
			w.takes[name] = 100 * wardInterval
		}
		end := w.run()
		time.Sleep(wardInterval)
		for _, name := range silent {
			if n := len(w.times(name)); n != 1 {
				t.Errorf("%s: %d probes under way after an interval, want one", name, n)
			}
		}
		time.Sleep(20 * wardInterval)
		if n := len(w.times("e:1")); n < 18 {
			t.Errorf("%d probes of the one that answers in 21 intervals", n)
		}
		end()
	})
}

// One probe of a backend at a time: the next begins when a slow one has ended.
func TestScheduleOfASlowOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t, "a:1")
		w.takes["a:1"] = 3 * wardInterval
		end := w.run()
		time.Sleep(20 * wardInterval)
		end()
		times := w.times("a:1")
		for i, at := range times[1:] {
			if gap := at.Sub(times[i]); gap != 3*wardInterval {
				t.Errorf("%v between two probes that take %v", gap, 3*wardInterval)
			}
		}
		if w.most != 1 || len(times) < 6 {
			t.Errorf("%d probes, up to %d at a time", len(times), w.most)
		}
	})
}

// Reloads are followed: whoever is new is probed, and whoever is gone is not.
func TestScheduleFollowsTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t, "a:1", "b:1")
		end := w.run()
		defer end()
		time.Sleep(2 * wardInterval)
		load := func(backends ...string) {
			w.pool.Update(backendAddresses(t, backends...), 0)
		}
		load("c:1", "b:1")
		a, b := len(w.times("a:1")), len(w.times("b:1"))
		time.Sleep(2 * wardInterval)
		if n := len(w.times("c:1")); n == 0 {
			t.Error("the new one was not probed")
		}
		if n := len(w.times("b:1")); n <= b {
			t.Error("the one that stayed is not probed any more")
		}
		if n := len(w.times("a:1")); n != a {
			t.Error("the one that is gone is still probed")
		}
		// One that comes back before it was missed is probed once an interval.
		load("b:1")
		load("c:1", "b:1")
		c := len(w.times("c:1"))
		time.Sleep(10 * wardInterval)
		if n := len(w.times("c:1")) - c; n < 8 || n > 12 {
			t.Errorf("%d probes in ten intervals of the one that came back", n)
		}
	})
}

// The schedule ends with its context, and not before its probes have.
func TestScheduleEnds(t *testing.T) {
	for name, takes := range map[string]time.Duration{"at rest": 0, "while probing": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWard(t, "a:1", "b:1")
				w.takes["a:1"], w.takes["b:1"] = takes, takes
				end := w.run()
				time.Sleep(wardInterval)
				end()
				if n := w.active["a:1"] + w.active["b:1"]; n != 0 {
					t.Errorf("%d probes under way after the end", n)
				}
				before := len(w.times("a:1"))
				time.Sleep(5 * wardInterval)
				if len(w.times("a:1")) != before {
					t.Error("probed after the end")
				}
			})
		})
	}
}
