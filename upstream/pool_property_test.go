package upstream

import (
	"fmt"
	"maps"
	"testing"
)

// TestRandom checks the rules in random simulations:
//
//   - The pool returns the same results as the model.
//   - A client makes at most two attempts on a backend, and is refused only if it
//     has tried every backend.
//   - Between two successes that count or resets, a backend has at most two strikes,
//     one move and one backend_failed per network. A connect does not count after a
//     failed check.
//   - all_backends_unavailable is reported once between two such successes or resets.
//   - A failback does not overtake a backend in its place.
//
// To repeat one seed:
//
//	go test ./upstream -run 'TestRandom/fixed/seed=17$'
func TestRandom(t *testing.T) {
	const seeds, length = 100, 1000
	for _, variant := range []struct {
		name    string
		updates bool
	}{{"fixed", false}, {"updated", true}} {
		t.Run(variant.name, func(t *testing.T) {
			for seed := range uint64(seeds) {
				t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
					s := newSimulation(seed, variant.updates)
					s.run(t, length, s.event)
					s.run(t, 1, s.end)
				})
				if t.Failed() {
					return // one failed seed is enough
				}
			}
		})
	}
}

// TestRandomCoversAllSituations checks that the simulation reaches every situation,
// because it cannot test those that it does not reach.
func TestRandomCoversAllSituations(t *testing.T) {
	covered := make(map[string]int)
	for seed := range uint64(150) {
		s := newSimulation(seed, false)
		s.run(t, 1500, s.event)
		maps.Copy(s.covered, map[string]int{
			"demotions": s.model.demotions, "recoveries": s.model.recoveries, "all unavailable": s.model.allUnavailable,
		})
		for situation, n := range s.covered {
			covered[situation] += n
		}
	}
	for _, situation := range []string{
		"demotions", "recoveries", "all unavailable", "refusals", "late successes", "old dials that won",
		"second attempts on a down backend", "failures without a strike", "retries", "sessions resumed",
		"demotions by check", "demotions of hung machines", "strikes of both kinds", "forgotten checks",
		"connects that end no strike or down of a check", "checks that end no strike of a connect", "checks that failed on a down backend",
		"drains", "refused drains of the last backend", "resets", "failbacks", "failbacks past demoted backends",
	} {
		if n := covered[situation]; n < 10 {
			t.Errorf("%s: %d times, want at least 10", situation, n)
		}
	}
}

// TestRandomOutageOfAll has 100 concurrent clients while every machine is dead. All
// are refused, and the outage costs each backend as much as with one client.
func TestRandomOutageOfAll(t *testing.T) {
	for seed := range uint64(50) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			s := newSimulation(seed, false)
			s.run(t, 1, func() {
				s.setMachines(dead)
				for range 100 {
					s.arrive(false)
				}
				s.finishClients()
				n := len(s.model.configured) * int(networks)
				if s.model.demotions != n || s.model.allUnavailable != int(networks) {
					fail("%d demotions and %d times all unavailable, want %d and %d", s.model.demotions, s.model.allUnavailable, n, networks)
				}
			})
		})
	}
}

// run calls do several times and turns a violation into a failed test.
func (s *simulation) run(t *testing.T, times int, do func()) {
	t.Helper()
	for i := range times {
		func() {
			t.Helper()
			defer func() {
				t.Helper()
				switch v := recover().(type) {
				case nil:
				case violation:
					t.Fatalf("seed %d, event %d, %v after the start, queue %q: %s", s.seed, i, s.now.Sub(start), queueText(s.pool, s.now), v)
				default:
					panic(v)
				}
			}()
			do()
		}()
	}
}

// end ends a simulation. All machines die and all clients finish. Then the machines
// come back, and a client must be served at its first attempt.
func (s *simulation) end() {
	s.setMachines(dead)
	for range 20 {
		s.arrive(false)
	}
	s.finishClients()
	s.setMachines(alive)
	for _, b := range s.model.configured {
		s.setDrained(b, false)
	}
	c := s.arrive(false)
	d := c.pending[0]
	d.settled, d.wins = true, true
	s.win(c, d, true)
	if err := s.model.check(s.pool, s.now); err != nil {
		fail("at the end: %v", err)
	}
}

// finishClients advances all clients in random order until they have finished.
func (s *simulation) finishClients() {
	for steps := 0; len(s.clients) > 0; steps++ {
		if steps > 1_000_000 {
			fail("%d clients do not finish", len(s.clients))
		}
		i := s.rng.IntN(len(s.clients))
		c := s.clients[i]
		s.advance(c)
		if len(c.pending) == 0 {
			s.clients[i] = s.clients[len(s.clients)-1]
			s.clients = s.clients[:len(s.clients)-1]
		}
	}
	if err := s.model.check(s.pool, s.now); err != nil {
		fail("%v", err)
	}
}

func (s *simulation) setMachines(m machine) {
	for name, was := range s.machines {
		for n := range networks {
			if was[n] != m {
				s.setMachine(name, n, m)
			}
		}
	}
}
