package upstream

import (
	"errors"
	"slices"
	"testing"
	"time"
)

func TestDrainedBackendIsNotOffered(t *testing.T) {
	play(t, "a b", time.Minute, []step{
		{"ann next", "a", "", ""},
		{"bob@udp next", "a", "", ""},
		{"operator drains a", "", "", "a:draining b"},
		{"cid next", "b", "", ""},
		{"cid exhausts b", "", "", ""},
		{"cid next", "refused", "", ""}, // even if no other backend is left
		{"dan@udp next", "b", "", ""},
		// Clients that are already there keep their two attempts.
		{"ann fails a", "retry", "strike 1", "a:draining b"},
		{"ann again a", "a", "", ""},
		{"ann succeeds a", "", "", ""},
		{"bob@udp resumes a", "a", "", ""},
		{"operator resumes a", "", "", "a b"},
		{"eve next", "a", "", ""},
	})
}

// A backend that is drained and cooling is not offered, even if no other is left.
func TestDrainedCoolingBackendIsNotOffered(t *testing.T) {
	play(t, "a b", time.Minute, slices.Concat(
		demotion("ann", "a", ", order b a, cooling until 1m0s", "a:struck b", "b a:cooling"),
		[]step{
			{"operator drains a", "", "", "b a:draining"},
			{"bob next", "b", "", ""},
			{"bob exhausts b", "", "", ""},
			{"bob next", "refused", "", ""},
			{"operator resumes a", "", "", "b a:cooling"},
			{"bob next", "a", "", ""},
		},
	))
}

// Draining a drained backend changes nothing. The last backend cannot be drained,
// whatever its state is.
func TestLastBackendCannotBeDrained(t *testing.T) {
	play(t, "a b", 0, slices.Concat(
		[]step{
			{"operator resumes a", "unchanged", "", ""},
			{"operator drains a", "", "", "a:draining b"},
			{"operator drains a", "unchanged", "", ""},
			{"operator drains b", ErrLastBackend.Error(), "", ""},
		},
		demotion("ann", "b", ", all unavailable", "a:draining b:struck", "a:draining b:down"),
		[]step{
			{"operator drains b", ErrLastBackend.Error(), "", ""},
			{"operator resumes a", "", "", "a b:down"},
			{"operator drains b", "", "", "a b:draining"},
			{"operator drains a", ErrLastBackend.Error(), "", ""},
		},
	))
}

// A drained backend stays drained over reloads, wherever it is configured, even if
// it is the only one left. The drain is the operator's decision.
func TestDrainedStaysOverReloads(t *testing.T) {
	play(t, "a b c", 0, []step{
		{"operator drains b", "", "", "a b:draining c"},
		{"operator loads c b", "", "", "c b:draining"},
		{"operator loads b d", "", "", "b:draining d"},
		{"operator drains d", ErrLastBackend.Error(), "", ""},
		{"operator loads b", "", "", "b:draining"},
		{"ann next", "refused", "", ""},
		{"operator drains b", "unchanged", "", ""},
		{"operator resumes b", "", "", "b"},
		{"ann next", "b", "", ""},
		// A backend that was removed and added again is a new backend.
		{"operator loads a b", "", "", "a b"},
		{"operator drains b", "", "", "a b:draining"},
		{"operator loads a", "", "", "a"},
		{"operator loads a b", "", "", "a b"},
	})
}

func TestRemovedBackendCannotBeDrained(t *testing.T) {
	p := NewPool(addresses("a b"), 0, start)
	a := p.Backend("a")
	p.Update(addresses("b"), 0)
	if changed, err := p.SetDrained(a, true); changed || !errors.Is(err, ErrRemoved) {
		t.Errorf("changed %v, %v; want %v", changed, err, ErrRemoved)
	}
}

// Probes reach drained backends, and their results count.
func TestProbesReachDrainedBackends(t *testing.T) {
	play(t, "a b", 0, []step{
		{"operator drains a", "", "", "a:draining b"},
		{"p probes a", "a", "", ""},
		{"p fails a", "retry", "strike 1", ""},
		{"p again a", "a", "", ""},
		{"p fails a", "next", "strike 2, demoted, order b a", "b a:draining"},
		{"operator resumes a", "", "", "b a:down"},
		{"operator drains a", "", "", "b a:draining"},
		{"time passes 3s", "", "", ""},
		{"q probes a", "a", "", ""},
		{"q succeeds a", "", "recovered after 3s", ""},
		{"operator resumes a", "", "", "b a"},
	})
}

// A drained backend gets no clients, so it does not keep the service available.
func TestAllUnavailableWithDrained(t *testing.T) {
	play(t, "a b c", 0, slices.Concat(
		[]step{{"operator drains b", "", "", "a b:draining c"}},
		demotion("ann", "a", ", order b c a", "a:struck b:draining c", "b:draining c a:down"),
		demotion("ann", "c", ", order b a c, all unavailable", "b:draining c:struck a:down", "b:draining a:down c:down"),
	))
}

// A backend that was drained when all_backends_unavailable was reported is not down.
// Its success ends the outage nevertheless, and the next outage is reported.
func TestAllUnavailableAgainAfterAResumedOneSucceeded(t *testing.T) {
	outage := slices.Concat(
		[]step{{"operator drains b", "", "", "a b:draining"}},
		demotion("ann", "a", ", order b a, all unavailable", "a:struck b:draining", "b:draining a:down"),
		[]step{{"operator resumes b", "", "", "b a:down"}},
	)
	t.Run("at once", func(t *testing.T) {
		play(t, "a b", 0, slices.Concat(outage,
			[]step{
				{"bob next", "b", "", ""},
				{"bob succeeds b", "", "", ""},
			},
			demotion("cid", "b", ", order a b, all unavailable", "b:struck a:down", "a:down b:down"),
		))
	})
	t.Run("after a strike", func(t *testing.T) {
		play(t, "a b", 0, slices.Concat(outage,
			[]step{
				{"bob next", "b", "", ""},
				{"bob fails b", "retry", "strike 1", "b:struck a:down"},
				{"bob again b", "b", "", ""},
				{"bob succeeds b", "", "", "b a:down"},
			},
			demotion("cid", "b", ", order a b, all unavailable", "b:struck a:down", "a:down b:down"),
		))
	})
	t.Run("not before", func(t *testing.T) {
		play(t, "a b", 0, slices.Concat(outage,
			demotion("cid", "b", ", order a b", "b:struck a:down", "a:down b:down"),
		))
	})
	t.Run("nor on the other network", func(t *testing.T) {
		play(t, "a b", 0, slices.Concat(outage,
			[]step{
				{"bob@udp next", "b", "", ""},
				{"bob@udp succeeds b", "", "", ""},
			},
			demotion("cid", "b", ", order a b", "b:struck a:down", "a:down b:down"),
		))
	})
}
