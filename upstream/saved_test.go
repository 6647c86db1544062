package upstream

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// stored returns the state as another process reads it.
func stored(t testing.TB, s Saved) (read Saved) {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	return read
}

// demote makes a client fail twice on the first backend that it is offered.
func demote(p *Pool, n Network, now time.Time) {
	walk := p.Walk(n)
	a, _ := walk.Next(now)
	walk.Failed(a, now, errRefused)
	a, _ = walk.Again(a, now)
	walk.Failed(a, now, errRefused)
}

// strike makes a client fail once on the first backend that it is offered.
func strike(p *Pool, n Network, now time.Time) {
	walk := p.Walk(n)
	a, _ := walk.Next(now)
	walk.Failed(a, now, errRefused)
}

// A restored pool has the order, strikes, cooldowns and drains of the old one, whatever
// the configuration is meanwhile.
func TestRestore(t *testing.T) {
	drain := func(p *Pool, backend string) { _, _ = p.SetDrained(p.Backend(backend), true) }
	for name, test := range map[string]struct {
		happened      func(p *Pool)
		after         time.Duration // until the restart
		configured    string        // by the new process
		cooldown      time.Duration // of the new process
		want          string
		wantUnchanged bool // the state is that of a new pool
		spared        string
	}{
		"nothing":                        {happened: func(*Pool) {}, configured: "a b c", want: "a b c", wantUnchanged: true},
		"strike":                         {happened: func(p *Pool) { strike(p, TCP, start) }, configured: "a b c", want: "a:struck b c"},
		"demotion":                       {happened: func(p *Pool) { demote(p, TCP, start) }, configured: "a b c", want: "b c a:down"},
		"cooldown continues":             {happened: func(p *Pool) { demote(p, TCP, start) }, after: 59 * time.Second, configured: "a b c", cooldown: time.Minute, want: "b c a:cooling"},
		"cooldown has ended":             {happened: func(p *Pool) { demote(p, TCP, start) }, after: 61 * time.Second, configured: "a b c", cooldown: time.Minute, want: "b c a:down"},
		"cooldown is off":                {happened: func(p *Pool) { demote(p, TCP, start) }, configured: "a b c", want: "b c a:down"},
		"drain":                          {happened: func(p *Pool) { drain(p, "b") }, configured: "a b c", want: "a b:draining c"},
		"two demotions":                  {happened: func(p *Pool) { demote(p, TCP, start); demote(p, TCP, start) }, configured: "a b c", want: "c a:down b:down"},
		"a new backend":                  {happened: func(p *Pool) { demote(p, TCP, start) }, configured: "a n b c", want: "n b c a:down"},
		"the demoted one was removed":    {happened: func(p *Pool) { demote(p, TCP, start) }, configured: "b c", want: "b c"},
		"the serving one was removed":    {happened: func(p *Pool) { demote(p, TCP, start) }, configured: "a c", want: "c a:down"},
		"another configured order":       {happened: func(p *Pool) { demote(p, TCP, start) }, configured: "c b a", want: "c b a:down"},
		"all backends are new":           {happened: func(p *Pool) { demote(p, TCP, start) }, configured: "x y", want: "x y"},
		"the last undrained was removed": {happened: func(p *Pool) { drain(p, "a"); drain(p, "b") }, configured: "a b", want: "a b:draining", spared: "a"},
	} {
		t.Run(name, func(t *testing.T) {
			old := NewPool(addresses("a b c"), time.Minute, start)
			test.happened(old)
			saved := stored(t, old.Export(start))
			if saved.IsZero() != test.wantUnchanged || !saved.Valid() {
				t.Errorf("exported %+v, valid: %v", saved, saved.Valid())
			}
			now := start.Add(test.after)
			p := NewPool(addresses(test.configured), test.cooldown, now)
			spared := p.Restore(saved, now)
			if got := queueText(p, now); got != test.want {
				t.Errorf("queue %q, want %q", got, test.want)
			}
			if (spared != nil || test.spared != "") && (spared == nil || spared.Text != test.spared) {
				t.Errorf("spared %v, want %q", spared, test.spared)
			}
			if err := checkSnapshot(p, now); err != nil {
				t.Error(err)
			}
		})
	}
}

// The strike from before the restart counts, and its end is that of its kind.
func TestRestoredStrikesCount(t *testing.T) {
	old := NewPool(addresses("a b"), 0, start)
	strike(old, TCP, start)
	p := NewPool(addresses("a b"), 0, start)
	p.Restore(stored(t, old.Export(start)), start)
	walk := p.Walk(TCP)
	a, _ := walk.Next(start)
	if _, change := walk.Failed(a, start, errRefused); !change.Demoted || change.Strike != 2 {
		t.Errorf("%+v, want the second strike", change)
	}

	checked := NewPool(addresses("a b"), 0, start)
	probe := checked.Probe(checked.Backend("a"), TCP, Works)
	for range 2 {
		a, _ = probe.Next(start)
		probe.Failed(a, start, errRefused)
		probe = checked.Probe(checked.Backend("a"), TCP, Works)
	}
	p = NewPool(addresses("a b"), 0, start)
	p.Restore(stored(t, checked.Export(start)), start)
	if !p.Backend("a").Condemned(TCP) || p.Backend("a").Down(UDP) {
		t.Errorf("queue %s, want a down on TCP by a check", queueText(p, start))
	}
}

// Attempts that began before the state was restored count nothing, so a failure that
// the old process has counted is not counted again.
func TestRestoreMakesAttemptsStale(t *testing.T) {
	old := NewPool(addresses("a b"), 0, start)
	strike(old, TCP, start)
	p := NewPool(addresses("a b"), 0, start)
	walk := p.Walk(TCP)
	a, _ := walk.Next(start)
	p.Restore(stored(t, old.Export(start)), start)
	if _, change := walk.Failed(a, start, errRefused); change.Strike != 0 {
		t.Errorf("%+v of a stale attempt", change)
	}
	if got := queueText(p, start); got != "a:struck b" {
		t.Errorf("queue %q", got)
	}
}

// An outage of all backends that was reported before the restart is not reported again.
func TestRestoredOutageIsNotReportedAgain(t *testing.T) {
	old := NewPool(addresses("a b"), 0, start)
	demote(old, TCP, start)
	demote(old, TCP, start)
	for name, test := range map[string]struct {
		configured string
		want       bool // reported again
	}{
		"the same backends": {"a b", false},
		"a new one":         {"a b c", true},
	} {
		p := NewPool(addresses(test.configured), 0, start)
		p.Restore(stored(t, old.Export(start)), start)
		reported := false
		for range 3 {
			for range 2 {
				probe := p.Probe(p.backends()[0], TCP, Listens)
				a, _ := probe.Next(start)
				_, change := probe.Failed(a, start, errRefused)
				reported = reported || change.AllUnavailable
			}
		}
		if reported != test.want {
			t.Errorf("%s: reported %v, want %v", name, reported, test.want)
		}
	}
}

// Counts are added, and a failure of this process stays the last one.
func TestAddCounts(t *testing.T) {
	old := NewPool(addresses("a b"), 0, start)
	demote(old, UDP, start)
	counts := old.Snapshot(start)[1].Networks[UDP].Counts()
	later := start.Add(time.Hour)
	p := NewPool(addresses("a b"), 0, later)
	a := p.Backend("a")
	p.AddCounts(a, UDP, counts)
	if got := p.Snapshot(later)[0].Networks[UDP].Counts(); got != counts || got.Failed != 2 || got.Demotions != 1 {
		t.Errorf("%+v, want %+v", got, counts)
	}
	strike(p, UDP, later)
	p.AddCounts(a, UDP, counts)
	if got := p.Snapshot(later)[0].Networks[UDP]; got.Failed != 5 || !got.LastFailure.At.Equal(later) {
		t.Errorf("%+v, want five failures, the last one now", got)
	}
	p.AddDeparted(UDP, Departed{Failed: 1, FailedChecks: 2, FailedLocal: 3, Demotions: 4})
	p.AddDeparted(UDP, Departed{Failed: 1})
	if got := p.Departed(UDP); got != (Departed{2, 2, 3, 4}) {
		t.Errorf("departed %+v", got)
	}
}

// randomSaved returns a state that no pool has exported.
func randomSaved(rng *rand.Rand) (s Saved) {
	moment := func() time.Time {
		if rng.IntN(2) == 0 {
			return time.Time{}
		}
		return start.Add(time.Duration(rng.Int64N(int64(200*time.Hour))) - 100*time.Hour)
	}
	health := func() SavedHealth {
		states := []State{"", Up, Struck, Down, Cooling, Draining, "?"}
		return SavedHealth{State: states[rng.IntN(len(states))], ByCheck: rng.IntN(2) == 0, DownSince: moment(), CoolingUntil: moment()}
	}
	list := strings.Fields(names + " g h")
	for range rng.IntN(10) {
		s.Backends = append(s.Backends, SavedBackend{
			Backend: list[rng.IntN(len(list))], Demoted: rng.IntN(2) == 0, Drained: rng.IntN(2) == 0, TCP: health(), UDP: health(),
		})
	}
	if rng.IntN(2) == 0 {
		s.AllDown = []string{"tcp", "udp", "?"}
	}
	return s
}

// checkRestored returns an error if the pool is in a state that no sequence of results
// leads to.
func checkRestored(p *Pool, now time.Time) error {
	undrained := 0
	for _, b := range p.backends() {
		if b.downAnywhere() && b.rank == 0 {
			return fmt.Errorf("%s is down, but was never demoted", b.Text)
		}
		if !b.drained.Load() {
			undrained++
		}
		for n := range networks {
			if b.health[n].cooling.Load() != 0 && !b.Down(n) {
				return fmt.Errorf("%s is cooling on %s, but not down", b.Text, n)
			}
			if until := p.epoch.Add(time.Duration(b.health[n].cooling.Load())); until.Sub(now) > p.cooldown {
				return fmt.Errorf("%s is cooling for %v, longer than the cooldown", b.Text, until.Sub(now))
			}
			if p.allDown[n].Load() && available(p.backends(), n) > 0 {
				return fmt.Errorf("reported that all are down on %s, but there is one", n)
			}
		}
	}
	if undrained == 0 {
		return fmt.Errorf("all backends are drained")
	}
	return checkSnapshot(p, now)
}

// Whatever is restored into whatever configuration, the pool is valid and works: a
// client tries each backend that is not drained and is refused after that, and once the
// machines are back, all backends recover.
func TestRestoreRandom(t *testing.T) {
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		s := newSimulation(seed, true)
		s.run(t, rng.IntN(300), s.event)
		saved := stored(t, s.pool.Export(s.now))
		if !saved.Valid() {
			t.Fatalf("seed %d: exported %+v, which is not valid", seed, saved)
		}
		before := queueText(s.pool, s.now)
		again := NewPool(configuredOf(s.pool), time.Minute, s.now) // a reload keeps cooldowns that are running
		allDrained := !slices.ContainsFunc(s.pool.backends(), func(b *Backend) bool { return !b.drained.Load() })
		if again.Restore(saved, s.now); queueText(again, s.now) != before && !allDrained {
			t.Fatalf("seed %d: restored %q, want %q", seed, queueText(again, s.now), before)
		}
		if rng.IntN(2) == 0 {
			saved = stored(t, randomSaved(rng))
		}
		s.now = s.now.Add(time.Duration(rng.Int64N(int64(3*time.Minute))) - time.Minute) // clocks may be wrong
		list := strings.Fields(names)
		rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		p := NewPool(addresses(strings.Join(list[:1+rng.IntN(len(list))], " ")), time.Duration(rng.IntN(2))*time.Minute, s.now)
		p.Restore(saved, s.now)
		if err := checkRestored(p, s.now); err != nil {
			t.Fatalf("seed %d: %v after %+v", seed, err, saved)
		}
		for n := range networks {
			tried := make(map[*Backend]bool)
			walk := p.Walk(n)
			for a, ok := walk.Next(s.now); ok; {
				tried[a.Backend] = true
				if v, _ := walk.Failed(a, s.now, errRefused); v == Retry {
					a, ok = walk.Again(a, s.now)
				} else {
					walk.Exhaust(a.Backend)
					a, ok = walk.Next(s.now)
				}
			}
			if len(tried) != len(p.Undrained()) {
				t.Fatalf("seed %d: a client tried %d of %d backends", seed, len(tried), len(p.Undrained()))
			}
			for _, b := range p.backends() {
				for _, e := range []Evidence{Works, Listens} {
					probe := p.Probe(b, n, e)
					a, _ := probe.Next(s.now)
					probe.Succeeded(a, s.now)
				}
			}
		}
		if err := checkSnapshot(p, s.now); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, status := range p.Snapshot(s.now) {
			for _, on := range status.Networks {
				if on.State != Up && on.State != Draining || on.Strikes != 0 {
					t.Fatalf("seed %d: %s is %+v, although it works", seed, status.Backend.Text, on)
				}
			}
		}
	}
}

// configuredOf returns the configuration of a pool.
func configuredOf(p *Pool) (list []Address) {
	queue := slices.Clone(p.backends())
	slices.SortFunc(queue, func(a, b *Backend) int { return a.configured - b.configured })
	for _, b := range queue {
		list = append(list, b.Address)
	}
	return list
}

// The cost of a snapshot of a pool that has nothing to remember.
func BenchmarkExport(b *testing.B) {
	p := NewPool(addresses("a b c"), 0, start)
	for b.Loop() {
		p.Export(start)
	}
}
