package upstream

import (
	"slices"
	"testing"
	"time"
)

// A reset clears the states on both networks and the order, but not drains.
func TestReset(t *testing.T) {
	play(t, "a b c", time.Hour, slices.Concat(
		demotion("ann", "a", ", order b c a, cooling until 1h0m0s", "a:struck b c", "b c a:cooling"),
		demotion("u@udp", "b", ", order c a b, cooling until 1h0m0s", "b:udp-struck c a:cooling", "c a:cooling b:udp-cooling"),
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

// Attempts that began before a reset cause neither strikes nor recoveries.
func TestAttemptsBeforeAReset(t *testing.T) {
	play(t, "a b", 0, slices.Concat(
		[]step{
			{"ann next", "a", "", ""},
			{"bob next", "a", "", ""},
			{"ann fails a", "retry", "strike 1", "a:struck b"},
			{"ann again a", "a", "", ""},
			{"operator resets", "", "", "a b"},
			{"bob fails a", "retry", "", ""},
			{"ann fails a", "next", "", ""}, // still counts as her second failure
		},
		demotion("cid", "a", ", order b a", "a:struck b", "b a:down"),
		[]step{
			{"p probes a", "a", "", ""},
			{"q probes a", "a", "", ""},
			{"operator resets", "", "order a b", "a b"},
			{"p succeeds a", "", "", ""},
			{"q fails a", "retry", "", ""},
			{"q again a", "a", "", ""},
			{"q fails a", "next", "strike 1", "a:struck b"}, // began after the reset
		},
	))
}

// After a reset, the next outage is reported.
func TestAllUnavailableAgainAfterAReset(t *testing.T) {
	outage := demotion("ann", "a", ", all unavailable", "a:struck", "a:down")
	play(t, "a", 0, slices.Concat(outage,
		[]step{{"operator resets", "", "", "a"}},
		demotion("bob", "a", ", all unavailable", "a:struck", "a:down"),
	))
}

func TestFailback(t *testing.T) {
	play(t, "a b c", time.Minute, slices.Concat(
		[]step{{"checker returns a", "", "", ""}},
		demotion("ann", "a", ", order b c a, cooling until 1m0s", "a:struck b c", "b c a:cooling"),
		[]step{
			{"checker returns a", "", "", ""}, // cooling
			{"time passes 1m", "", "", "b c a:down"},
			{"checker returns a", "", "", ""}, // down
			{"p probes a", "a", "", ""},
			{"p succeeds a", "", "recovered after 1m0s", "b c a"},
			{"checker returns a", "", "order a b c", "a b c"},
			{"checker returns a", "", "", ""},
		},
	))
}

// A backend that is down on one network does not fail back, because both networks
// share the order.
func TestNoFailbackWhileDownOnOneNetwork(t *testing.T) {
	play(t, "a b", 0, slices.Concat(
		demotion("ann", "a", ", order b a", "a:struck b", "b a:down"),
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

// If all backends were demoted at some time and are in configured order, the first
// one to recover must not overtake the others.
func TestFailbackKeepsConfiguredOrder(t *testing.T) {
	play(t, "a b c", 0, slices.Concat(
		demotion("ann", "a", ", order b c a", "a:struck b c", "b c a:down"),
		demotion("bob", "b", ", order c a b", "b:struck c a:down", "c a:down b:down"),
		demotion("cid", "c", ", order a b c, all unavailable", "c:struck a:down b:down", "a:down b:down c:down"),
		recovery("a", "a b:down c:down"), recovery("b", "a b c:down"), recovery("c", "a b c"),
		[]step{
			{"checker returns c", "", "", ""},
			{"operator loads a b c d", "", "", "a b c d"}, // none counts as demoted, so d is last
		},
	))
}

// A failback may overtake a backend that is down.
func TestFailbackPastDownBackend(t *testing.T) {
	play(t, "a b", 0, slices.Concat(
		bothDown(),
		recovery("b", "a:down b"),
		[]step{{"checker returns b", "", "order b a", "b a:down"}},
		recovery("a", "b a"),
		[]step{{"checker returns a", "", "order a b", "a b"}},
	))
}

// A removed backend does not fail back.
func TestRemovedBackendDoesNotFailBack(t *testing.T) {
	p := NewPool(addresses("a b"), 0, start)
	a := p.Backend("a")
	p.Update(addresses("b"), 0)
	a.rank = 1
	if change := p.Failback(a); change.Order != nil || queueText(p, start) != "b" {
		t.Errorf("change %+v, queue %q", change, queueText(p, start))
	}
}

// Demotions counts the demotions on both networks.
func TestDemotions(t *testing.T) {
	p := NewPool(addresses("a b"), 0, start)
	for n := range networks {
		walk := p.Probe(p.Backend("a"), n, Listens)
		a, _ := walk.Next(start)
		walk.Failed(a, start, errRefused)
		a, _ = walk.Again(a, start)
		walk.Failed(a, start, errRefused)
	}
	if got := p.Backend("a").Demotions(); got != 2 {
		t.Errorf("%d demotions, want 2", got)
	}
}
