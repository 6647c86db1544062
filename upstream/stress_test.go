package upstream

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Everything at once, for the race detector. Who comes when is the scheduler's
// choice; what is left at the end must make sense whatever it chose.
func TestStress(t *testing.T) {
	const clients, walks = 16, 400
	var (
		p         = NewPool(addresses("a b c d"), time.Second, start)
		clock     atomic.Int64 // nanoseconds after start; only ever forward
		now       = func() time.Time { return start.Add(time.Duration(clock.Load())) }
		finished  = make(chan struct{})
		reports   [networks]struct{ failed, succeeded atomic.Uint64 }
		demotions [networks]atomic.Uint64
		served    sync.WaitGroup
		others    sync.WaitGroup
	)
	report := func(n Network, walk *Walk, a Attempt, wins bool) (Verdict, Change) {
		if wins {
			reports[n].succeeded.Add(1)
			return Next, walk.Succeeded(a, now())
		}
		reports[n].failed.Add(1)
		v, change := walk.Failed(a, now(), errRefused)
		if change.Demoted {
			demotions[n].Add(1)
		}
		return v, change
	}
	serve := func(rng *rand.Rand, n Network, walk Walk) {
		tried := make(map[*Backend]int)
		a, ok := walk.Next(now())
		for ok {
			if tried[a.Backend]++; tried[a.Backend] > 2 {
				t.Errorf("attempt number %d of one client on %s", tried[a.Backend], a.Backend.Text)
				return
			}
			clock.Add(int64(rng.IntN(int(time.Millisecond))))
			wins := rng.IntN(3) == 0
			verdict, _ := report(n, &walk, a, wins)
			switch {
			case wins:
				return
			case verdict == Retry, verdict == RetryIfChanged && rng.IntN(2) == 0:
				a, ok = walk.Again(a, now())
			default:
				walk.Exhaust(a.Backend)
				a, ok = walk.Next(now())
			}
		}
	}
	for i := range clients {
		served.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			for range walks {
				n := Network(rng.IntN(int(networks)))
				if rng.IntN(8) > 0 {
					serve(rng, n, p.Walk(n))
				} else if b := p.Backend("a"); b != nil {
					serve(rng, n, p.Probe(b, n))
				}
			}
		})
	}
	meanwhile := func(do func(rng *rand.Rand)) {
		others.Go(func() {
			rng := rand.New(rand.NewPCG(2, 0))
			for {
				select {
				case <-finished:
					return
				default:
					do(rng)
				}
			}
		})
	}
	meanwhile(func(*rand.Rand) {
		// Not checkSnapshot: it reads twice, and between the two all may change.
		if got := len(p.Snapshot(now())); got != 4 && got != 5 {
			t.Errorf("a snapshot of %d backends", got)
		}
	})
	meanwhile(func(rng *rand.Rand) { p.SetDrained(p.Backend([]string{"b", "c"}[rng.IntN(2)]), rng.IntN(2) == 0) })
	meanwhile(func(rng *rand.Rand) {
		if rng.IntN(8) == 0 {
			p.Reset()
		}
		p.Failback(p.Backend([]string{"a", "b"}[rng.IntN(2)]))
	})
	meanwhile(func(*rand.Rand) {
		// a to d stay, or their counters would go with them.
		p.Update(addresses("d c b a"), 0)
		p.Update(addresses("a b c d"), time.Second)
	})
	meanwhile(func(*rand.Rand) {
		if order := p.Order(); len(order) != 4 || strings.Join(slices.Sorted(slices.Values(order)), "") != "abcd" {
			t.Errorf("order %v is no permutation of a to d", order)
		}
	})
	served.Wait()
	close(finished)
	others.Wait()

	if err := checkSnapshot(p, now()); err != nil {
		t.Error(err)
	}
	for n := range networks {
		var got NetworkStatus
		for _, s := range p.Snapshot(now()) {
			got.Succeeded += s.Networks[n].Succeeded
			got.Failed += s.Networks[n].Failed
			got.Demotions += s.Networks[n].Demotions
		}
		if s, f := reports[n].succeeded.Load(), reports[n].failed.Load(); got.Succeeded != s || got.Failed != f {
			t.Errorf("%s: %d succeeded and %d failed, but %d and %d were reported", n, got.Succeeded, got.Failed, s, f)
		}
		if d := demotions[n].Load(); got.Demotions != d || d == 0 {
			t.Errorf("%s: %d demotions counted, %d announced", n, got.Demotions, d)
		}
	}
}

// A crowd on real goroutines whose first attempts are all under way together,
// and then their second ones: two strikes, one move, one
// all_backends_unavailable, and everybody hears of it.
func TestCrowdAtOnce(t *testing.T) {
	const crowd = 100
	var (
		p                         = NewPool(addresses("a"), 0, start)
		first, failed, second     sync.WaitGroup // everybody has come so far
		done                      sync.WaitGroup
		strikes, demoted, allDown atomic.Int64
	)
	for _, together := range []*sync.WaitGroup{&first, &failed, &second} {
		together.Add(crowd)
	}
	count := func(c Change) {
		if c.Strike > 0 {
			strikes.Add(1)
		}
		if c.Demoted {
			demoted.Add(1)
		}
		if c.AllUnavailable {
			allDown.Add(1)
		}
	}
	for range crowd {
		done.Go(func() {
			walk := p.Walk(TCP)
			a, _ := walk.Next(start)
			first.Done()
			first.Wait()
			v, change := walk.Failed(a, start, errRefused)
			count(change)
			failed.Done()
			failed.Wait()
			a, ok := walk.Again(a, start)
			second.Done()
			second.Wait()
			if v != Retry || !ok {
				t.Errorf("the first failure says %v, and again %v", v, ok)
				return
			}
			v, change = walk.Failed(a, start, errRefused)
			count(change)
			if v != Next || !isClosed(a.Demoted()) {
				t.Errorf("the second failure says %v, told of the demotion: %v", v, isClosed(a.Demoted()))
			}
			if _, ok := walk.Next(start); ok {
				t.Error("is sent back to the only backend")
			}
		})
	}
	done.Wait()
	if s, d, a := strikes.Load(), demoted.Load(), allDown.Load(); s != 2 || d != 1 || a != 1 {
		t.Errorf("%d strikes, %d demotions, %d times all unavailable; want 2, 1, 1", s, d, a)
	}
}
