package upstream

import (
	"fmt"
	"testing"
	"time"
)

// goesDown is how somebody called who meets the dead backend at the head of
// the queue and demotes it.
func goesDown(who, backend, change, queueStruck, queue string) []step {
	return []step{
		{who + " next", backend, "", ""},
		{who + " fails " + backend, "retry", "strike 1", queueStruck},
		{who + " again " + backend, backend, "", ""},
		{who + " fails " + backend, "next", "strike 2, demoted" + change, queue},
	}
}

// tell joins the chapters of a story.
func tell(chapters ...[]step) []step {
	var all []step
	for _, c := range chapters {
		all = append(all, c...)
	}
	return all
}

// However long an outage lasts, and with nobody else to turn to: one attempt a
// client, no strike, no move, no event.
func TestDownCostsNothingMore(t *testing.T) {
	steps := goesDown("ann", "a", ", all unavailable", "a:struck", "a:down")
	for i := range 50 {
		who := fmt.Sprint("c", i)
		steps = append(steps, []step{
			{"time passes 1h", "", "", ""},
			{who + " next", "a", "", ""},
			{who + " fails a", "retry if changed", "", ""},
			{who + " exhausts a", "", "", ""}, // the addresses are the same
			{who + " next", "refused", "", ""},
		}...)
	}
	play(t, "a", 0, steps)
}

// Fresh addresses earn a down backend a second attempt, and no third.
func TestDownIsRetriedOnceIfChanged(t *testing.T) {
	play(t, "a b", 0, tell(
		goesDown("ann", "a", ", order b a", "a:struck b", "b a:down"),
		[]step{
			{"bob next", "b", "", ""},
			{"bob exhausts b", "", "", ""},
			{"bob next", "a", "", ""},
			{"bob fails a", "retry if changed", "", ""},
			{"bob again a", "a", "", ""},
			{"bob fails a", "next", "", ""},
			{"bob again a", "refused", "", ""},
			{"bob next", "refused", "", ""},
		},
	))
}

// Down until it succeeds, also if it comes to the front meanwhile.
func TestDownAtTheFrontIsNotMovedAgain(t *testing.T) {
	play(t, "a b", 0, tell(
		goesDown("ann", "a", ", order b a", "a:struck b", "b a:down"),
		goesDown("bob", "b", ", order a b, all unavailable", "b:struck a:down", "a:down b:down"),
		[]step{
			{"cid next", "a", "", ""},
			{"cid fails a", "retry if changed", "", ""},
			{"cid exhausts a", "", "", ""},
			{"cid next", "b", "", ""},
			{"cid fails b", "retry if changed", "", ""},
			{"cid exhausts b", "", "", ""},
			{"cid next", "refused", "", ""},
		},
	))
}

func TestRecoversOnce(t *testing.T) {
	play(t, "a b", 0, tell(
		goesDown("ann", "a", ", order b a", "a:struck b", "b a:down"),
		[]step{
			{"bob probes a", "a", "", ""},
			{"cid probes a", "a", "", ""},
			{"time passes 90s", "", "", ""},
			{"bob succeeds a", "", "recovered after 1m30s", "b a"}, // sticky: a stays where it is
			{"time passes 1s", "", "", ""},
			{"cid succeeds a", "", "", ""},
			{"dan next", "b", "", ""},
		},
		// A new outage is a new story, and lasts from its own beginning.
		[]step{
			{"pam probes a", "a", "", ""},
			{"pam fails a", "retry", "strike 1", "b a:struck"},
			{"pam again a", "a", "", ""},
			{"pam fails a", "next", "strike 2, demoted", "b a:down"},
			{"tom probes a", "a", "", ""},
			{"time passes 5s", "", "", ""},
			{"tom succeeds a", "", "recovered after 5s", "b a"},
		},
	))
}

// Sticky: a demoted backend comes forward only as those before it fail.
func TestOrderIsSticky(t *testing.T) {
	play(t, "a b c", 0, tell(
		goesDown("ann", "a", ", order b c a", "a:struck b c", "b c a:down"),
		[]step{
			{"p probes a", "a", "", ""},
			{"p succeeds a", "", "recovered after 0s", "b c a"},
			{"time passes 1000h", "", "", ""},
			{"bob next", "b", "", ""},
			{"bob succeeds b", "", "", ""},
		},
		goesDown("cid", "b", ", order c a b", "b:struck c a", "c a b:down"),
		goesDown("dan", "c", ", order a b c", "c:struck a b:down", "a b:down c:down"),
		[]step{{"dan next", "a", "", ""}},
	))
}

// A dial that began before the demotion may still win, and ends the outage.
func TestOldDialStillWins(t *testing.T) {
	play(t, "a b", time.Minute, tell(
		[]step{{"bob next", "a", "", ""}},
		goesDown("ann", "a", ", order b a, cooling until 1m0s", "a:struck b", "b a:cooling"),
		[]step{
			{"bob waits a", "go on", "", ""},
			{"bob exhausts a", "", "", ""},
			{"bob next", "b", "", ""},
			{"time passes 2s", "", "", ""},
			{"bob succeeds a", "", "recovered after 2s", "b a"},
			{"cid next", "b", "", ""},
		},
	))
}

// A failure from an outage that is over is not held against the backend.
func TestFailuresFromBeforeTheRecoveryAreVoid(t *testing.T) {
	play(t, "a", 0, tell(
		goesDown("ann", "a", ", all unavailable", "a:struck", "a:down"),
		[]step{
			{"bob next", "a", "", ""},
			{"cid next", "a", "", ""},
			{"cid succeeds a", "", "recovered after 0s", "a"},
			{"bob fails a", "retry", "", ""}, // not "if changed": it is up
			{"bob again a", "a", "", ""},
			{"bob succeeds a", "", "", ""},
		},
	))
}

// all_backends_unavailable is said once until one succeeds, whoever that is.
func TestAllUnavailableOnceUntilOneSucceeds(t *testing.T) {
	play(t, "a b", 0, tell(
		goesDown("ann", "a", ", order b a", "a:struck b", "b a:down"),
		goesDown("bob", "b", ", order a b, all unavailable", "b:struck a:down", "a:down b:down"),
		[]step{
			{"cid next", "a", "", ""},
			{"cid fails a", "retry if changed", "", ""},
			{"p probes b", "b", "", ""},
			{"p succeeds b", "", "recovered after 0s", "a:down b"},
			{"q probes b", "b", "", ""},
			{"q fails b", "retry", "strike 1", "a:down b:struck"},
			{"q again b", "b", "", ""},
			{"q fails b", "next", "strike 2, demoted, all unavailable", "a:down b:down"},
		},
	))
}

// With one of two recovered, the other's fall is no news of that kind.
func TestNotAllUnavailableWhileOneStands(t *testing.T) {
	play(t, "a b", 0, tell(
		goesDown("ann", "a", ", order b a", "a:struck b", "b a:down"),
		[]step{
			{"p probes a", "a", "", ""},
			{"p succeeds a", "", "recovered after 0s", "b a"},
		},
		goesDown("bob", "b", ", order a b", "b:struck a", "a b:down"),
		[]step{{"bob next", "a", "", ""}},
	))
}

func TestAllUnavailableOfASingleBackend(t *testing.T) {
	play(t, "a", 0, tell(
		goesDown("ann", "a", ", all unavailable", "a:struck", "a:down"),
		[]step{
			{"bob next", "a", "", ""},
			{"bob fails a", "retry if changed", "", ""},
			{"cid next", "a", "", ""},
			{"cid succeeds a", "", "recovered after 0s", "a"},
		},
		goesDown("dan", "a", ", all unavailable", "a:struck", "a:down"),
	))
}

func TestAllUnavailablePerNetwork(t *testing.T) {
	play(t, "a b", 0, tell(
		goesDown("ann@udp", "a", ", order b a", "a:udp-struck b", "b a:udp-down"),
		// b is the last on UDP, whatever TCP has left, and not on TCP.
		goesDown("bob", "b", ", order a b", "b:struck a:udp-down", "a:udp-down b:down"),
		[]step{
			{"p@udp probes b", "b", "", ""},
			{"p@udp fails b", "retry", "strike 1", "a:udp-down b:down:udp-struck"},
			{"p@udp again b", "b", "", ""},
			{"p@udp fails b", "next", "strike 2, demoted, all unavailable", "a:udp-down b:down:udp-down"},
			{"cid next", "a", "", ""}, // up on TCP
		},
	))
	play(t, "a", 0, tell(
		goesDown("ann", "a", ", all unavailable", "a:struck", "a:down"),
		goesDown("ann@udp", "a", ", all unavailable", "a:down:udp-struck", "a:down:udp-down"),
		[]step{
			// TCP's recovery does not make UDP's outage news again.
			{"p probes a", "a", "", ""},
			{"p succeeds a", "", "recovered after 0s", "a:udp-down"},
			{"bob@udp next", "a", "", ""},
			{"bob@udp fails a", "retry if changed", "", ""},
		},
	))
}
