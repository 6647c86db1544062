package upstream

import (
	"fmt"
	"testing"
)

// Whatever happens in whatever order, the promises hold: the pool answers as
// the ledger says; nobody makes more than two attempts on a backend or is
// refused with one untried; between two successes or resets a backend costs two
// strikes, one move and one backend_failed on each network; it is not said twice
// that all are unavailable without a success or a reset between; whoever fails
// back overtakes no leader in its place. One seed again:
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
					w := newWorld(seed, variant.updates)
					w.run(t, length, w.happen)
					w.run(t, 1, w.end)
				})
				if t.Failed() {
					return // the first seed says enough
				}
			}
		})
	}
}

// TestRandomMeetsEverything keeps the simulation honest: what it never meets,
// it does not test.
func TestRandomMeetsEverything(t *testing.T) {
	var seen sights
	var demotions, recoveries, allUnavailable int
	for seed := range uint64(30) {
		w := newWorld(seed, false)
		w.run(t, 1500, w.happen)
		seen.add(w.seen)
		demotions += w.ledger.demotions
		recoveries += w.ledger.recoveries
		allUnavailable += w.ledger.allUnavailable
	}
	for what, n := range map[string]int{
		"demotions": demotions, "recoveries": recoveries, "all unavailable": allUnavailable,
		"refusals": seen.refusals, "late successes": seen.lateSuccesses, "old dials that won": seen.oldDialWins,
		"second attempts on a down backend": seen.secondsOnDown, "failures that were no strikes": seen.staleFailures,
		"retries": seen.retries, "sessions resumed": seen.resumed,
		"drains": seen.drains, "drains of the last one": seen.lastOnes, "resets": seen.resets,
		"failbacks": seen.failbacks, "failbacks past some who were demoted": seen.failbacksPast,
	} {
		if n < 10 {
			t.Errorf("%s: met %d times in all", what, n)
		}
	}
}

// With every machine dead, a crowd that comes all at once is refused to the
// last, and the whole outage costs each backend what one client's would.
func TestRandomOutageOfAll(t *testing.T) {
	for seed := range uint64(50) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			w := newWorld(seed, false)
			w.run(t, 1, func() {
				w.setMachines(false)
				for range 100 {
					w.arrive(false)
				}
				w.drainClients()
				n := len(w.ledger.configured) * int(networks)
				if w.ledger.demotions != n || w.ledger.allUnavailable != int(networks) {
					fail("%d demotions and %d times all unavailable, want %d and %d", w.ledger.demotions, w.ledger.allUnavailable, n, networks)
				}
			})
		})
	}
}

// run does something some times and turns a violation into a failed test.
func (w *world) run(t *testing.T, times int, do func()) {
	t.Helper()
	for i := range times {
		func() {
			t.Helper()
			defer func() {
				t.Helper()
				switch v := recover().(type) {
				case nil:
				case violation:
					t.Fatalf("seed %d, event %d, %v after the start, queue %q: %s", w.seed, i, w.now.Sub(start), queueText(w.pool, w.now), v)
				default:
					panic(v)
				}
			}()
			do()
		}()
	}
}

// end is how every world ends: all machines die and everybody is told, then
// they come back, and a client is served at its first attempt.
func (w *world) end() {
	w.setMachines(false)
	for range 20 {
		w.arrive(false)
	}
	w.drainClients()
	w.setMachines(true)
	for _, b := range w.ledger.configured {
		w.setDrained(b, false)
	}
	c := w.arrive(false)
	d := c.pending[0]
	d.settled, d.wins = true, true
	w.win(c, d, true)
	if err := w.ledger.check(w.pool, w.now); err != nil {
		fail("at the end: %v", err)
	}
}

// drainClients lets everybody finish, in random order.
func (w *world) drainClients() {
	for moves := 0; len(w.clients) > 0; moves++ {
		if moves > 1_000_000 {
			fail("%d clients find no end", len(w.clients))
		}
		i := w.rng.IntN(len(w.clients))
		c := w.clients[i]
		w.move(c)
		if len(c.pending) == 0 {
			w.clients[i] = w.clients[len(w.clients)-1]
			w.clients = w.clients[:len(w.clients)-1]
		}
	}
	if err := w.ledger.check(w.pool, w.now); err != nil {
		fail("%v", err)
	}
}

func (w *world) setMachines(alive bool) {
	for name, was := range w.alive {
		for n := range networks {
			if was[n] != alive {
				w.setMachine(name, n, alive)
			}
		}
	}
}

func (s *sights) add(o sights) {
	s.refusals += o.refusals
	s.lateSuccesses += o.lateSuccesses
	s.oldDialWins += o.oldDialWins
	s.secondsOnDown += o.secondsOnDown
	s.staleFailures += o.staleFailures
	s.retries += o.retries
	s.resumed += o.resumed
	s.drains += o.drains
	s.lastOnes += o.lastOnes
	s.resets += o.resets
	s.failbacks += o.failbacks
	s.failbacksPast += o.failbacksPast
}
