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

// TestStress calls all methods concurrently, for the race detector. The state at the
// end must be consistent whatever the order of the calls was.
func TestStress(t *testing.T) {
	const clients, walks = 16, 400
	var (
		p         = NewPool(addresses("a b c d"), time.Second, start)
		clock     atomic.Int64 // nanoseconds after start; never decreases
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
					serve(rng, n, p.Probe(b, n, Evidence(rng.IntN(2))))
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
		// checkSnapshot cannot be used here, because the pool changes between its reads.
		if got := len(p.Snapshot(now())); got != 4 && got != 5 {
			t.Errorf("snapshot has %d backends", got)
		}
	})
	meanwhile(func(rng *rand.Rand) { p.SetDrained(p.Backend([]string{"b", "c"}[rng.IntN(2)]), rng.IntN(2) == 0) })
	meanwhile(func(rng *rand.Rand) {
		if rng.IntN(8) == 0 {
			p.Reset()
			p.ForgetChecks(Network(rng.IntN(int(networks))))
		}
		p.Failback(p.Backend([]string{"a", "b"}[rng.IntN(2)]))
	})
	meanwhile(func(*rand.Rand) {
		// a to d stay, because removed backends lose their counters.
		p.Update(addresses("d c b a"), 0)
		p.Update(addresses("a b c d"), time.Second)
	})
	meanwhile(func(*rand.Rand) {
		if order := p.Order(); len(order) != 4 || strings.Join(slices.Sorted(slices.Values(order)), "") != "abcd" {
			t.Errorf("order %v is not a permutation of a to d", order)
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
			t.Errorf("%s: counted %d successes and %d failures, want %d and %d", n, got.Succeeded, got.Failed, s, f)
		}
		if d := demotions[n].Load(); got.Demotions != d || d == 0 {
			t.Errorf("%s: counted %d demotions, want %d (at least 1)", n, got.Demotions, d)
		}
	}
}

// The first attempts of 100 clients on goroutines are in progress together, and then
// their second attempts. They cause two strikes, one move and one
// all_backends_unavailable, and every client learns of the demotion.
func TestConcurrentClientsCauseTwoStrikes(t *testing.T) {
	const clients = 100
	var (
		p                         = NewPool(addresses("a"), 0, start)
		first, failed, second     sync.WaitGroup // barriers: all clients have reached this point
		done                      sync.WaitGroup
		strikes, demoted, allDown atomic.Int64
	)
	for _, barrier := range []*sync.WaitGroup{&first, &failed, &second} {
		barrier.Add(clients)
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
	for range clients {
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
				t.Errorf("first failure: verdict %v, second attempt %v", v, ok)
				return
			}
			v, change = walk.Failed(a, start, errRefused)
			count(change)
			if v != Next || !isClosed(a.Demoted()) {
				t.Errorf("second failure: verdict %v, Demoted is closed: %v", v, isClosed(a.Demoted()))
			}
			if _, ok := walk.Next(start); ok {
				t.Error("Next returned the exhausted backend")
			}
		})
	}
	done.Wait()
	if s, d, a := strikes.Load(), demoted.Load(), allDown.Load(); s != 2 || d != 1 || a != 1 {
		t.Errorf("%d strikes, %d demotions, %d times all unavailable; want 2, 1, 1", s, d, a)
	}
}
