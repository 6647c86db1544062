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

// fakeProbes runs a schedule over the backends of a pool. Its probes take a given
// time and record when they begin.
type fakeProbes struct {
	pool  *upstream.Pool
	takes map[string]time.Duration // time of a backend's probes; set before run

	mu     sync.Mutex // guards the fields below
	began  map[string][]time.Time
	active map[string]int
	most   int // the most concurrent probes of one backend
}

const fakeInterval = time.Minute

func newFakeProbes(t *testing.T, backends ...string) *fakeProbes {
	return &fakeProbes{
		pool:   upstream.NewPool(backendAddresses(t, backends...), 0, time.Now()),
		takes:  make(map[string]time.Duration),
		began:  make(map[string][]time.Time),
		active: make(map[string]int),
	}
}

// run starts the schedule. end ends it and waits for that.
func (f *fakeProbes) run() (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	s := schedule{interval: fakeInterval, start: f.start, backends: func() (list []*upstream.Backend) {
		for _, s := range f.pool.Snapshot(time.Now()) {
			list = append(list, s.Backend)
		}
		return list
	}}
	go func() {
		defer close(ended)
		s.run(ctx)
	}()
	return func() {
		cancel()
		<-ended
	}
}

func (f *fakeProbes) start(b *upstream.Backend) func(context.Context) {
	return func(ctx context.Context) {
		f.count(b, +1)
		defer f.count(b, -1)
		select {
		case <-time.After(f.takes[b.Text]):
		case <-ctx.Done():
			time.Sleep(time.Second) // an active probe takes a while to end
		}
	}
}

func (f *fakeProbes) count(b *upstream.Backend, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n > 0 {
		f.began[b.Text] = append(f.began[b.Text], time.Now())
	}
	f.active[b.Text] += n
	f.most = max(f.most, f.active[b.Text])
}

// times returns when the probes of a backend began.
func (f *fakeProbes) times(backend string) []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.began[backend])
}

// The first probe begins within the interval, each further one an interval later,
// plus or minus a tenth. The times of the backends differ.
func TestScheduleJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := []string{"a:1", "b:1", "c:1", "d:1", "e:1", "f:1", "g:1", "h:1"}
		f := newFakeProbes(t, names...)
		start := time.Now()
		end := f.run()
		time.Sleep(100 * fakeInterval)
		end()
		firsts, gaps := make(map[time.Duration]bool), make(map[time.Duration]bool)
		for _, name := range names {
			times := f.times(name)
			first := times[0].Sub(start)
			if first < 0 || first >= fakeInterval {
				t.Errorf("%s: first probe after %v", name, first)
			}
			firsts[first] = true
			for i, at := range times[1:] {
				gap := at.Sub(times[i])
				if gap < fakeInterval*9/10 || gap > fakeInterval*11/10 {
					t.Errorf("%s: %v between two probes", name, gap)
				}
				gaps[gap] = true
			}
		}
		if len(firsts) < len(names) || len(gaps) < 100 {
			t.Errorf("%d different first times and %d different gaps: no jitter", len(firsts), len(gaps))
		}
	})
}

// Silent backends are probed in parallel and do not delay the probes of others.
func TestScheduleIsParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := []string{"a:1", "b:1", "c:1", "d:1"}
		f := newFakeProbes(t, append(silent, "e:1")...)
		for _, name := range silent {
			f.takes[name] = 100 * fakeInterval
		}
		end := f.run()
		time.Sleep(fakeInterval)
		for _, name := range silent {
			if n := len(f.times(name)); n != 1 {
				t.Errorf("%s: %d active probes after an interval, want 1", name, n)
			}
		}
		time.Sleep(20 * fakeInterval)
		if n := len(f.times("e:1")); n < 18 {
			t.Errorf("%d probes of the backend that answers in 21 intervals", n)
		}
		end()
	})
}

// Probes of one backend do not overlap: the next one begins when a slow one has
// ended.
func TestScheduleSlowProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeProbes(t, "a:1")
		f.takes["a:1"] = 3 * fakeInterval
		end := f.run()
		time.Sleep(20 * fakeInterval)
		end()
		times := f.times("a:1")
		for i, at := range times[1:] {
			if gap := at.Sub(times[i]); gap != 3*fakeInterval {
				t.Errorf("%v between two probes that take %v", gap, 3*fakeInterval)
			}
		}
		if f.most != 1 || len(times) < 6 {
			t.Errorf("%d probes, up to %d at a time", len(times), f.most)
		}
	})
}

// After a reload new backends are probed, and removed ones are not.
func TestScheduleFollowsTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeProbes(t, "a:1", "b:1")
		end := f.run()
		defer end()
		time.Sleep(2 * fakeInterval)
		load := func(backends ...string) {
			f.pool.Update(backendAddresses(t, backends...), 0)
		}
		load("c:1", "b:1")
		a, b := len(f.times("a:1")), len(f.times("b:1"))
		time.Sleep(2 * fakeInterval)
		if n := len(f.times("c:1")); n == 0 {
			t.Error("the new backend was not probed")
		}
		if n := len(f.times("b:1")); n <= b {
			t.Error("the backend that stayed is no longer probed")
		}
		if n := len(f.times("a:1")); n != a {
			t.Error("the removed backend is still probed")
		}
		// A backend that is removed and added again between two refreshes is probed
		// once per interval.
		load("b:1")
		load("c:1", "b:1")
		c := len(f.times("c:1"))
		time.Sleep(10 * fakeInterval)
		if n := len(f.times("c:1")) - c; n < 8 || n > 12 {
			t.Errorf("%d probes in ten intervals of the backend that was added again", n)
		}
	})
}

// The schedule ends with its context, after its probes have ended.
func TestScheduleEnds(t *testing.T) {
	for name, takes := range map[string]time.Duration{"at rest": 0, "while probing": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeProbes(t, "a:1", "b:1")
				f.takes["a:1"], f.takes["b:1"] = takes, takes
				end := f.run()
				time.Sleep(fakeInterval)
				end()
				if n := f.active["a:1"] + f.active["b:1"]; n != 0 {
					t.Errorf("%d active probes after the end", n)
				}
				before := len(f.times("a:1"))
				time.Sleep(5 * fakeInterval)
				if len(f.times("a:1")) != before {
					t.Error("probed after the end")
				}
			})
		})
	}
}
