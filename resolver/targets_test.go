package resolver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeSRV answers with targets that a test controls, and records what Targets
// reports.
type fakeSRV struct {
	mu      sync.Mutex
	targets []Target
	ttl     time.Duration
	takes   time.Duration
	err     error
	queried int
	lines   []string
}

func (f *fakeSRV) lookup(ctx context.Context, _ string) ([]Target, time.Duration, error) {
	f.mu.Lock()
	f.queried++
	takes := f.takes
	f.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.targets), f.ttl, f.err
}

func (f *fakeSRV) set(change func(f *fakeSRV)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeSRV) write(format string, args ...any) {
	f.set(func(f *fakeSRV) { f.lines = append(f.lines, fmt.Sprintf(format, args...)) })
}

func (f *fakeSRV) Changed(old, new []Target, surplus int) {
	f.write("changed %v %v %d", old, new, surplus)
}
func (f *fakeSRV) Stale(targets []Target, age time.Duration, err error) {
	f.write("stale %v %v: %v", targets, age.Round(time.Second), err)
}
func (f *fakeSRV) Failed(err error) { f.write("failed: %v", err) }

func (f *fakeSRV) want(t *testing.T, queries int, lines ...string) {
	t.Helper()
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.queried != queries {
		t.Errorf("%d queries, want %d", f.queried, queries)
	}
	if !slices.Equal(f.lines, lines) {
		t.Errorf("reports %q, want %q", f.lines, lines)
	}
	f.lines = nil
}

var one, two, three = Target{"one.example.", 1}, Target{"two.example.", 2}, Target{"three.example.", 3}

func follow(t *testing.T, f *fakeSRV, known TargetList) *Targets {
	targets := Follow(TargetsConfig{
		Name: "_a._tcp.example", Lookup: f.lookup, Observer: f, Known: known,
		Lifetime: Lifetime{Min: 5 * time.Second, Max: time.Hour},
	})
	t.Cleanup(targets.Close)
	return targets
}

func TestTargetsAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeSRV{targets: []Target{one, two, one}, ttl: time.Minute, takes: time.Second}
		targets := follow(t, f, TargetList{})
		if err := targets.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.want(t, 1, "changed [] [one.example:1 two.example:2] 0")
		if list, err := targets.List(); err != nil || !slices.Equal(list.Targets, []Target{one, two}) || list.ExpiresAt.Sub(list.ResolvedAt) != time.Minute {
			t.Errorf("list %v, error %v", list, err)
		}
		f.set(func(f *fakeSRV) { f.targets = []Target{two, one} })
		time.Sleep(time.Minute)
		f.want(t, 2, "changed [one.example:1 two.example:2] [two.example:2 one.example:1] 0")
		time.Sleep(time.Second) // the renewal may have ended just now
		f.set(func(f *fakeSRV) { f.targets = []Target{three, one} })
		targets.Refresh()
		time.Sleep(2 * time.Second)
		f.want(t, 3, "changed [two.example:2 one.example:1] [three.example:3 one.example:1] 0")
		targets.Refresh()
		targets.Refresh()
		time.Sleep(time.Second)
		f.want(t, 4)
		targets.Refresh() // too early
		f.want(t, 4)
	})
}

func TestFailedLookupKeepsTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeSRV{err: errDown}
		known := TargetList{Targets: []Target{one, two}, ResolvedAt: time.Now(), ExpiresAt: time.Now().Add(time.Minute)}
		time.Sleep(2 * time.Minute)
		targets := follow(t, f, known)
		if err := targets.Wait(t.Context()); err != nil {
			t.Errorf("error %v with known targets", err)
		}
		f.want(t, 1, "stale [one.example:1 two.example:2] 2m0s: lookup _a._tcp.example: DNS is down")
		f.set(func(f *fakeSRV) { f.err = nil }) // an answer without targets is a failure, too
		time.Sleep(time.Minute)
		f.want(t, 2)
		list, err := targets.List()
		if err == nil || !slices.Equal(list.Targets, []Target{one, two}) {
			t.Errorf("list %v, error %v", list, err)
		}
		f.set(func(f *fakeSRV) { f.targets = []Target{one, two} })
		time.Sleep(time.Minute)
		f.want(t, 3)
		if _, err := targets.List(); err != nil {
			t.Error(err)
		}
	})
}

// A fresh answer of the settings before a reload needs no query.
func TestKnownTargetsAreNotQueried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeSRV{targets: []Target{one}, ttl: time.Minute}
		follow(t, f, TargetList{Targets: []Target{one}, ExpiresAt: time.Now().Add(time.Minute)})
		time.Sleep(54 * time.Second)
		f.want(t, 0)
		time.Sleep(6 * time.Second)
		f.want(t, 1)
	})
}

func TestTargetsThatNeverResolved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeSRV{err: errDown, takes: 2 * time.Second}
		targets := follow(t, f, TargetList{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := targets.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want that of the deadline", err)
		}
		if err := targets.Wait(t.Context()); !errors.Is(err, errDown) {
			t.Errorf("error %v, want %v", err, errDown)
		}
		start := time.Now()
		if err := targets.Wait(t.Context()); !errors.Is(err, errDown) { // remembered
			t.Errorf("error %v, want %v", err, errDown)
		}
		elapsed(t, start, 0)
		f.want(t, 1, "failed: lookup _a._tcp.example: DNS is down")
		f.set(func(f *fakeSRV) { f.err, f.targets = nil, []Target{one} })
		time.Sleep(5 * time.Second)
		if err := targets.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		f.want(t, 2, "changed [] [one.example:1] 0")
	})
}

func TestTargetsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeSRV{}
		for i := range 70 {
			f.targets = append(f.targets, Target{"a.example.", uint16(i + 1)})
		}
		targets := follow(t, f, TargetList{})
		_ = targets.Wait(t.Context())
		if list, _ := targets.List(); len(list.Targets) != 64 {
			t.Errorf("%d targets, want 64", len(list.Targets))
		}
	})
}

func TestPanicOfTargetsIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeSRV{}
		targets := Follow(TargetsConfig{Name: "a", Observer: f, Lookup: func(context.Context, string) ([]Target, time.Duration, error) { panic("boo") }})
		defer targets.Close()
		if err := targets.Wait(t.Context()); err == nil || err.Error() != "lookup a: panic: boo" {
			t.Errorf("error %v", err)
		}
	})
}

// Close ends a query, and the callers that wait for it.
func TestCloseEndsTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeSRV{takes: time.Hour}
		targets := follow(t, f, TargetList{})
		var waiter sync.WaitGroup
		waiter.Go(func() {
			if err := targets.Wait(t.Context()); !errors.Is(err, errClosed) {
				t.Errorf("error %v, want %v", err, errClosed)
			}
		})
		synctest.Wait()
		start := time.Now()
		targets.Close()
		waiter.Wait()
		elapsed(t, start, 0)
		f.want(t, 1)
	})
}
