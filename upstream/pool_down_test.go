package upstream

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// While the only backend is down, each client makes one attempt and causes no
// strike, no move and no event, however long the outage lasts.
func TestDownBackendGetsNoFurtherStrikes(t *testing.T) {
	steps := demotion("ann", "a", ", all unavailable", "a:struck", "a:down")
	for i := range 50 {
		client := fmt.Sprint("c", i)
		steps = append(steps, []step{
			{"time passes 1h", "", "", ""},
			{client + " next", "a", "", ""},
			{client + " fails a", "retry if changed", "", ""},
			{client + " exhausts a", "", "", ""}, // the addresses are the same
			{client + " next", "refused", "", ""},
		}...)
	}
	play(t, "a", 0, steps)
}

// A client makes a second attempt on a down backend if the addresses changed, and no
// third.
func TestDownBackendIsRetriedOnceIfChanged(t *testing.T) {
	play(t, "a b", 0, slices.Concat(
		demotion("ann", "a", ", order b a", "a:struck b", "b a:down"),
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

// A backend stays down until it succeeds, even at the front of the queue.
func TestDownAtTheFrontIsNotMovedAgain(t *testing.T) {
	play(t, "a b", 0, slices.Concat(
		bothDown(),
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

func TestRecoveryIsReportedOnce(t *testing.T) {
	play(t, "a b", 0, slices.Concat(
		demotion("ann", "a", ", order b a", "a:struck b", "b a:down"),
		[]step{
			{"bob probes a", "a", "", ""},
			{"cid probes a", "a", "", ""},
			{"time passes 90s", "", "", ""},
			{"bob succeeds a", "", "recovered after 1m30s", "b a"}, // a keeps its place
			{"time passes 1s", "", "", ""},
			{"cid succeeds a", "", "", ""},
			{"dan next", "b", "", ""},
		},
		// A new outage costs two strikes again, and DownFor counts from its start.
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

// A demoted backend moves forward only as those before it fail.
func TestOrderIsSticky(t *testing.T) {
	play(t, "a b c", 0, slices.Concat(
		demotion("ann", "a", ", order b c a", "a:struck b c", "b c a:down"),
		[]step{
			{"p probes a", "a", "", ""},
			{"p succeeds a", "", "recovered after 0s", "b c a"},
			{"time passes 1000h", "", "", ""},
			{"bob next", "b", "", ""},
			{"bob succeeds b", "", "", ""},
		},
		demotion("cid", "b", ", order c a b", "b:struck c a", "c a b:down"),
		demotion("dan", "c", ", order a b c", "c:struck a b:down", "a b:down c:down"),
		[]step{{"dan next", "a", "", ""}},
	))
}

// A dial that began before the demotion may still succeed. That ends the outage.
func TestOldDialMaySucceed(t *testing.T) {
	play(t, "a b", time.Minute, slices.Concat(
		[]step{{"bob next", "a", "", ""}},
		demotion("ann", "a", ", order b a, cooling until 1m0s", "a:struck b", "b a:cooling"),
		[]step{
			{"bob waits a", "demoted", "", ""},
			{"bob exhausts a", "", "", ""},
			{"bob next", "b", "", ""},
			{"time passes 2s", "", "", ""},
			{"bob succeeds a", "", "recovered after 2s", "b a"},
			{"cid next", "b", "", ""},
		},
	))
}

// A failed attempt that began before the recovery causes no strike.
func TestFailuresFromBeforeTheRecoveryAreStale(t *testing.T) {
	play(t, "a", 0, slices.Concat(
		demotion("ann", "a", ", all unavailable", "a:struck", "a:down"),
		[]step{
			{"bob next", "a", "", ""},
			{"cid next", "a", "", ""},
			{"cid succeeds a", "", "recovered after 0s", "a"},
			{"bob fails a", "retry", "", ""}, // not "if changed", because a is up
			{"bob again a", "a", "", ""},
			{"bob succeeds a", "", "", ""},
		},
	))
}

// all_backends_unavailable is reported once until any backend succeeds.
func TestAllUnavailableOnceUntilOneSucceeds(t *testing.T) {
	play(t, "a b", 0, slices.Concat(
		bothDown(),
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

// If one backend has recovered, the demotion of the other does not make all
// unavailable.
func TestNotAllUnavailableWhileOneIsUp(t *testing.T) {
	play(t, "a b", 0, slices.Concat(
		demotion("ann", "a", ", order b a", "a:struck b", "b a:down"),
		recovery("a", "b a"),
		demotion("bob", "b", ", order a b", "b:struck a", "a b:down"),
		[]step{{"bob next", "a", "", ""}},
	))
}

func TestAllUnavailableOfASingleBackend(t *testing.T) {
	play(t, "a", 0, slices.Concat(
		demotion("ann", "a", ", all unavailable", "a:struck", "a:down"),
		[]step{
			{"bob next", "a", "", ""},
			{"bob fails a", "retry if changed", "", ""},
			{"cid next", "a", "", ""},
			{"cid succeeds a", "", "recovered after 0s", "a"},
		},
		demotion("dan", "a", ", all unavailable", "a:struck", "a:down"),
	))
}

func TestAllUnavailablePerNetwork(t *testing.T) {
	play(t, "a b", 0, slices.Concat(
		demotion("ann@udp", "a", ", order b a", "a:udp-struck b", "b a:udp-down"),
		// After this, both are down on some network, but a is still up on TCP and b on UDP.
		demotion("bob", "b", ", order a b", "b:struck a:udp-down", "a:udp-down b:down"),
		[]step{
			{"p@udp probes b", "b", "", ""},
			{"p@udp fails b", "retry", "strike 1", "a:udp-down b:down:udp-struck"},
			{"p@udp again b", "b", "", ""},
			{"p@udp fails b", "next", "strike 2, demoted, all unavailable", "a:udp-down b:down:udp-down"},
			{"cid next", "a", "", ""}, // up on TCP
		},
	))
	play(t, "a", 0, slices.Concat(
		demotion("ann", "a", ", all unavailable", "a:struck", "a:down"),
		demotion("ann@udp", "a", ", all unavailable", "a:down:udp-struck", "a:down:udp-down"),
		[]step{
			// The recovery on TCP does not cause a second report for UDP.
			{"p probes a", "a", "", ""},
			{"p succeeds a", "", "recovered after 0s", "a:udp-down"},
			{"bob@udp next", "a", "", ""},
			{"bob@udp fails a", "retry if changed", "", ""},
		},
	))
}
