package upstream

import (
	"testing"
	"time"
)

// A reset forgets what was learnt, on both networks, and not who is drained.
func TestReset(t *testing.T) {
	play(t, "a b c", time.Hour, tell(
		goesDown("ann", "a", ", order b c a, cooling until 1h0m0s", "a:struck b c", "b c a:cooling"),
		goesDown("u@udp", "b", ", order c a b, cooling until 1h0m0s", "b:udp-struck c a:cooling", "c a:cooling b:udp-cooling"),
		[]step{
			{"bob next", "c", "", ""},
			{"bob fails c", "retry", "strike 1", "c:struck a:cooling b:udp-cooling"},
			{"operator drains b", "", "", "c:struck a:cooling b:draining"},
			{"operator resets", "", "order a b c", "a b:draining c"},
			{"cid next", "a", "", ""},
			{"operator resumes b", "", "", "a b c"},
			{"operator resets", "", "", ""},
		},
	))
}

// What was under way is neither a strike nor a recovery after a reset.
func TestAttemptsBeforeAReset(t *testing.T) {
	play(t, "a b", 0, tell(
		[]step{
			{"ann next", "a", "", ""},
			{"bob next", "a", "", ""},
			{"ann fails a", "retry", "strike 1", "a:struck b"},
			{"ann again a", "a", "", ""},
			{"operator resets", "", "", "a b"},
			{"bob fails a", "retry", "", ""},
			{"ann fails a", "next", "", ""}, // her second failure all the same
		},
		goesDown("cid", "a", ", order b a", "a:struck b", "b a:down"),
		[]step{
			{"p probes a", "a", "", ""},
			{"q probes a", "a", "", ""},
			{"operator resets", "", "order a b", "a b"},
			{"p succeeds a", "", "", ""},
			{"q fails a", "retry", "", ""},
			{"q again a", "a", "", ""},
			{"q fails a", "next", "strike 1", "a:struck b"}, // begun after it
		},
	))
}

// The next outage is news after a reset.
func TestAllUnavailableAgainAfterAReset(t *testing.T) {
	outage := goesDown("ann", "a", ", all unavailable", "a:struck", "a:down")
	play(t, "a", 0, tell(outage,
		[]step{{"operator resets", "", "", "a"}},
		goesDown("bob", "a", ", all unavailable", "a:struck", "a:down"),
	))
}

func TestFailback(t *testing.T) {
	play(t, "a b c", time.Minute, tell(
		[]step{{"checker returns a", "", "", ""}},
		goesDown("ann", "a", ", order b c a, cooling until 1m0s", "a:struck b c", "b c a:cooling"),
		[]step{
			{"checker returns a", "", "", ""}, // while it cools
			{"time passes 1m", "", "", "b c a:down"},
			{"checker returns a", "", "", ""}, // while it is down
			{"p probes a", "a", "", ""},
			{"p succeeds a", "", "recovered after 1m0s", "b c a"},
			{"checker returns a", "", "order a b c", "a b c"},
			{"checker returns a", "", "", ""},
		},
	))
}

// Down on the other network is down: the order is one for both.
func TestNoFailbackWhileDownOnOneNetwork(t *testing.T) {
	play(t, "a b", 0, tell(
		goesDown("ann", "a", ", order b a", "a:struck b", "b a:down"),
		[]step{
			{"u@udp probes a", "a", "", ""},
			{"u@udp succeeds a", "", "", ""},
			{"checker returns a", "", "", ""},
			{"p probes a", "a", "", ""},
			{"p succeeds a", "", "recovered after 0s", "b a"},
			{"checker returns a", "", "order a b", "a b"},
		},
	))
}

// All were demoted at some time and stand as configured: whoever is found well
// first must not overtake the others.
func TestFailbackOvertakesNoOneInItsPlace(t *testing.T) {
	play(t, "a b c", 0, tell(
		goesDown("ann", "a", ", order b c a", "a:struck b c", "b c a:down"),
		goesDown("bob", "b", ", order c a b", "b:struck c a:down", "c a:down b:down"),
		goesDown("cid", "c", ", order a b c, all unavailable", "c:struck a:down b:down", "a:down b:down c:down"),
		recovers("a", "a b:down c:down"), recovers("b", "a b c:down"), recovers("c", "a b c"),
		[]step{
			{"checker returns c", "", "", ""},
			{"operator loads a b c d", "", "", "a b c d"}, // they are at home, all of them
		},
	))
}

// A backend in front that is down is in nobody's way.
func TestFailbackPastTheDown(t *testing.T) {
	play(t, "a b", 0, tell(
		goesDown("ann", "a", ", order b a", "a:struck b", "b a:down"),
		goesDown("bob", "b", ", order a b, all unavailable", "b:struck a:down", "a:down b:down"),
		recovers("b", "a:down b"),
		[]step{{"checker returns b", "", "order b a", "b a:down"}},
		recovers("a", "b a"),
		[]step{{"checker returns a", "", "order a b", "a b"}},
	))
}

func recovers(backend, queue string) []step {
	who := "r" + backend
	return []step{
		{who + " probes " + backend, backend, "", ""},
		{who + " succeeds " + backend, "", "recovered after 0s", queue},
	}
}

// A removed backend has no place to return to.
func TestRemovedDoesNotFailBack(t *testing.T) {
	p := NewPool(addresses("a b"), 0, start)
	a := p.Backend("a")
	p.Update(addresses("b"), 0)
	a.rank = 1
	if change := p.Failback(a); change.Order != nil || queueText(p, start) != "b" {
		t.Errorf("change %+v, queue %q", change, queueText(p, start))
	}
}

// A run of successes ends at a demotion, whoever caused it on whichever network.
func TestDemotions(t *testing.T) {
	p := NewPool(addresses("a b"), 0, start)
	for n := range networks {
		walk := p.Probe(p.Backend("a"), n)
		a, _ := walk.Next(start)
		walk.Failed(a, start, errRefused)
		a, _ = walk.Again(a, start)
		walk.Failed(a, start, errRefused)
	}
	if got := p.Backend("a").Demotions(); got != 2 {
		t.Errorf("%d demotions, want 2", got)
	}
}
