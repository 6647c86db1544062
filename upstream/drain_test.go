package upstream

import (
	"errors"
	"testing"
	"time"
)

func TestDrainedIsNotOffered(t *testing.T) {
	play(t, "a b", time.Minute, []step{
		{"ann next", "a", "", ""},
		{"bob@udp next", "a", "", ""},
		{"operator drains a", "", "", "a:draining b"},
		{"cid next", "b", "", ""},
		{"cid exhausts b", "", "", ""},
		{"cid next", "refused", "", ""}, // also with nothing else left
		{"dan@udp next", "b", "", ""},
		// What runs there goes on, with its two attempts.
		{"ann fails a", "retry", "strike 1", "a:draining b"},
		{"ann again a", "a", "", ""},
		{"ann succeeds a", "", "", ""},
		{"bob@udp resumes a", "a", "", ""},
		{"operator resumes a", "", "", "a b"},
		{"eve next", "a", "", ""},
	})
}

// The last resort, a cooling backend, is none when it is drained.
func TestDrainedIsNotOfferedWhenCooling(t *testing.T) {
	play(t, "a b", time.Minute, tell(
		goesDown("ann", "a", ", order b a, cooling until 1m0s", "a:struck b", "b a:cooling"),
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

// Who drains what is drained is told so, and nobody may drain the last one, in
// whatever condition it is.
func TestTheLastOneIsNotDrained(t *testing.T) {
	play(t, "a b", 0, tell(
		[]step{
			{"operator resumes a", "no news", "", ""},
			{"operator drains a", "", "", "a:draining b"},
			{"operator drains a", "no news", "", ""},
			{"operator drains b", ErrLastBackend.Error(), "", ""},
		},
		goesDown("ann", "b", ", all unavailable", "a:draining b:struck", "a:draining b:down"),
		[]step{
			{"operator drains b", ErrLastBackend.Error(), "", ""},
			{"operator resumes a", "", "", "a b:down"},
			{"operator drains b", "", "", "a b:draining"},
			{"operator drains a", ErrLastBackend.Error(), "", ""},
		},
	))
}

// What is drained stays so over reloads, wherever it stands then, and also
// where nobody else is left: it is the operator's word against the config's.
func TestDrainedStaysOverReloads(t *testing.T) {
	play(t, "a b c", 0, []step{
		{"operator drains b", "", "", "a b:draining c"},
		{"operator loads c b", "", "", "c b:draining"},
		{"operator loads b d", "", "", "b:draining d"},
		{"operator drains d", ErrLastBackend.Error(), "", ""},
		{"operator loads b", "", "", "b:draining"},
		{"ann next", "refused", "", ""},
		{"operator drains b", "no news", "", ""},
		{"operator resumes b", "", "", "b"},
		{"ann next", "b", "", ""},
		// One that was gone is another when it comes back.
		{"operator loads a b", "", "", "a b"},
		{"operator drains b", "", "", "a b:draining"},
		{"operator loads a", "", "", "a"},
		{"operator loads a b", "", "", "a b"},
	})
}

func TestRemovedIsNotDrained(t *testing.T) {
	p := NewPool(addresses("a b"), 0, start)
	a := p.Backend("a")
	p.Update(addresses("b"), 0)
	if changed, err := p.SetDrained(a, true); changed || !errors.Is(err, ErrRemoved) {
		t.Errorf("changed %v, %v; want %v", changed, err, ErrRemoved)
	}
}

// Whether a drained backend is well is still known: probes reach it, and what
// they find counts.
func TestProbesReachTheDrained(t *testing.T) {
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

// A drained backend takes nobody, so it does not keep the service available.
func TestAllUnavailableWithDrained(t *testing.T) {
	play(t, "a b c", 0, tell(
		[]step{{"operator drains b", "", "", "a b:draining c"}},
		goesDown("ann", "a", ", order b c a", "a:struck b:draining c", "b:draining c a:down"),
		goesDown("ann", "c", ", order b a c, all unavailable", "b:draining c:struck a:down", "b:draining a:down c:down"),
	))
}

// A backend that was drained at the time of the report ends the outage like
// any other by succeeding, though it was never down: the next outage is news.
func TestAllUnavailableAgainAfterAResumedOneSucceeded(t *testing.T) {
	outage := tell(
		[]step{{"operator drains b", "", "", "a b:draining"}},
		goesDown("ann", "a", ", order b a, all unavailable", "a:struck b:draining", "b:draining a:down"),
		[]step{{"operator resumes b", "", "", "b a:down"}},
	)
	t.Run("at once", func(t *testing.T) {
		play(t, "a b", 0, tell(outage,
			[]step{
				{"bob next", "b", "", ""},
				{"bob succeeds b", "", "", ""},
			},
			goesDown("cid", "b", ", order a b, all unavailable", "b:struck a:down", "a:down b:down"),
		))
	})
	t.Run("after a strike", func(t *testing.T) {
		play(t, "a b", 0, tell(outage,
			[]step{
				{"bob next", "b", "", ""},
				{"bob fails b", "retry", "strike 1", "b:struck a:down"},
				{"bob again b", "b", "", ""},
				{"bob succeeds b", "", "", "b a:down"},
			},
			goesDown("cid", "b", ", order a b, all unavailable", "b:struck a:down", "a:down b:down"),
		))
	})
	t.Run("not before", func(t *testing.T) {
		play(t, "a b", 0, tell(outage,
			goesDown("cid", "b", ", order a b", "b:struck a:down", "a:down b:down"),
		))
	})
	t.Run("nor on the other network", func(t *testing.T) {
		play(t, "a b", 0, tell(outage,
			[]step{
				{"bob@udp next", "b", "", ""},
				{"bob@udp succeeds b", "", "", ""},
			},
			goesDown("cid", "b", ", order a b", "b:struck a:down", "a:down b:down"),
		))
	})
}
