package upstream

import (
	"slices"
	"testing"
	"time"
)

// condemnation returns the steps of a check that fails twice on the first backend
// of the queue and thereby demotes it.
func condemnation(backend, change, queueStruck, queue string) []step {
	return []step{
		{"check checks " + backend, backend, "", ""},
		{"check fails " + backend, "retry", "strike 1, by check", queueStruck},
		{"check again " + backend, backend, "", ""},
		{"check fails " + backend, "next", "strike 2, demoted, by check" + change, queue},
	}
}

// Clients connect to a hung backend all the time. A failed check still demotes it.
func TestConnectsDoNotOutdateAFailedCheck(t *testing.T) {
	connect := []step{
		{"ann next", "a", "", ""},
		{"ann succeeds a", "", "", ""},
	}
	play(t, "a b", 0, slices.Concat(
		[]step{{"check checks a", "a", "", ""}},
		connect,
		[]step{{"check fails a", "retry", "strike 1, by check", "a:struck:by-check b"}},
		connect,
		[]step{{"check again a", "a", "", ""}},
		connect,
		[]step{{"check fails a", "next", "strike 2, demoted, by check, order b a", "b a:down:by-check"}},
	))
}

// Only a passed check ends what a check has condemned, also if it failed when the
// backend was down already.
func TestOnlyAPassedCheckRecoversFromAFailedOne(t *testing.T) {
	recovers := []step{
		{"ann resumes a", "a", "", ""}, // connects to a backend of the client's own choice
		{"ann succeeds a", "", "", ""},
		{"probe probes a", "a", "", ""},
		{"probe succeeds a", "", "", ""},
		{"time passes 1m", "", "", ""},
		{"check checks a", "a", "", ""},
		{"check succeeds a", "", "recovered after 1m0s", "b a"},
	}
	t.Run("demoted by checks", func(t *testing.T) {
		play(t, "a b", 0, slices.Concat(condemnation("a", ", order b a", "a:struck:by-check b", "b a:down:by-check"), recovers))
	})
	t.Run("demoted by clients", func(t *testing.T) {
		play(t, "a b", 0, slices.Concat(
			demotion("ann", "a", ", order b a", "a:struck b", "b a:down"),
			[]step{
				{"check checks a", "a", "", ""},
				{"check fails a", "retry if changed", "", "b a:down:by-check"},
			},
			recovers,
		))
	})
}

// A strike by a client and one by a check make two, in either order.
func TestStrikesOfBothKindsAreShared(t *testing.T) {
	play(t, "a b", 0, []step{
		{"ann next", "a", "", ""},
		{"ann fails a", "retry", "strike 1", "a:struck b"},
		{"check checks a", "a", "", ""},
		{"check fails a", "next", "strike 2, demoted, by check, order b a", "b a:down:by-check"},
	})
	play(t, "a b", 0, []step{
		{"check checks a", "a", "", ""},
		{"check fails a", "retry", "strike 1, by check", "a:struck:by-check b"},
		{"ann next", "a", "", ""},
		{"ann fails a", "next", "strike 2, demoted, by check, order b a", "b a:down:by-check"},
	})
}

// A backend that is silent to its clients for longer than the time between two
// checks is demoted although each check passes.
func TestPassedChecksDoNotProtectFromClients(t *testing.T) {
	pass := []step{
		{"check checks a", "a", "", ""},
		{"check succeeds a", "", "", ""},
	}
	play(t, "a b", 0, slices.Concat(
		[]step{{"ann next", "a", "", ""}},
		pass,
		[]step{{"ann fails a", "retry", "strike 1", "a:struck b"}},
		pass,
		[]step{{"ann again a", "a", "", ""}},
		pass,
		[]step{{"ann fails a", "next", "strike 2, demoted, order b a", "b a:down"}},
		[]step{
			{"check checks a", "a", "", ""},
			{"check succeeds a", "", "recovered after 0s", "b a"},
		},
	))
}

// A client and a check that fail together cause one strike, whichever is first.
func TestTogetherFailedEvidenceIsOneStrike(t *testing.T) {
	both := []step{
		{"ann next", "a", "", ""},
		{"check checks a", "a", "", ""},
	}
	play(t, "a b", 0, slices.Concat(both, []step{
		{"ann fails a", "retry", "strike 1", "a:struck b"},
		{"check fails a", "retry", "", ""},
	}))
	play(t, "a b", 0, slices.Concat(both, []step{
		{"check fails a", "retry", "strike 1, by check", "a:struck:by-check b"},
		{"ann fails a", "retry", "", ""},
	}))
	// A strike that has ended outdates no failure of the other kind.
	play(t, "a b", 0, slices.Concat(both, []step{
		{"ann fails a", "retry", "strike 1", "a:struck b"},
		{"ann again a", "a", "", ""},
		{"ann succeeds a", "", "", "a b"},
		{"check fails a", "retry", "strike 1, by check", "a:struck:by-check b"},
	}))
}

// Once no check is configured any more, a connect ends what a check has condemned.
func TestForgetChecks(t *testing.T) {
	play(t, "a b", time.Minute, slices.Concat(
		condemnation("a", ", order b a, cooling until 1m0s", "a:struck:by-check b", "b a:cooling:by-check"),
		[]step{
			{"operator forgets", "", "", "b a:cooling"},
			{"ann resumes a", "a", "", ""},
			{"ann succeeds a", "", "recovered after 0s", "b a"},
		},
	))
	play(t, "a b", 0, []step{
		{"check checks a", "a", "", ""},
		{"check fails a", "retry", "strike 1, by check", "a:struck:by-check b"},
		{"operator forgets", "", "", "a:struck b"},
		{"ann next", "a", "", ""},
		{"ann succeeds a", "", "", "a b"},
	})
}

// Where every backend is condemned, clients are served by the first one, and
// all_backends_unavailable is not reported for each of them.
func TestAllCondemned(t *testing.T) {
	play(t, "a", 0, slices.Concat(
		condemnation("a", ", all unavailable", "a:struck:by-check", "a:down:by-check"),
		[]step{
			{"ann next", "a", "", ""},
			{"ann succeeds a", "", "", ""},
			{"bob next", "a", "", ""},
			{"bob fails a", "retry if changed", "", ""},
			{"bob exhausts a", "", "", ""},
			{"bob next", "refused", "", ""},
			{"check checks a", "a", "", ""},
			{"check succeeds a", "", "recovered after 0s", "a"},
		},
		condemnation("a", ", all unavailable", "a:struck:by-check", "a:down:by-check"),
	))
}

// The generations of a word do not disturb each other or the state.
func TestWordGenerations(t *testing.T) {
	w := stateMask
	for range 3 {
		w += worksUnit
	}
	for range 5 {
		w += listensUnit
	}
	if w.generation(Works) != 3 || w.generation(Listens) != 5 || w&stateMask != stateMask {
		t.Errorf("generations %d and %d, state %b", w.generation(Works), w.generation(Listens), w&stateMask)
	}
}
