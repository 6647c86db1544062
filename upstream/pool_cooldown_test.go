package upstream

import (
	"slices"
	"testing"
	"time"
)

// A cooling backend is passed over while the client has another one left, and tried
// before the client is refused.
func TestCoolingIsPassedOver(t *testing.T) {
	play(t, "a b c", time.Minute, slices.Concat(
		demotion("ann", "a", ", order b c a, cooling until 1m0s", "a:struck b c", "b c a:cooling"),
		[]step{{"time passes 10s", "", "", ""}},
		demotion("bob", "b", ", order c a b, cooling until 1m10s", "b:struck c a:cooling", "c a:cooling b:cooling"),
		[]step{{"time passes 10s", "", "", ""}},
		demotion("cid", "c", ", order a b c, cooling until 1m20s, all unavailable", "c:struck a:cooling b:cooling", "a:cooling b:cooling c:cooling"),
		[]step{
			{"p probes c", "c", "", ""},
			{"p succeeds c", "", "recovered after 0s", "a:cooling b:cooling c"},
			// c is last, but the only one that is not cooling.
			{"dan next", "c", "", ""},
			{"dan exhausts c", "", "", ""},
			{"dan next", "a", "", ""},
			{"dan fails a", "retry if changed", "", ""},
			{"dan exhausts a", "", "", ""},
			{"dan next", "b", "", ""},
			{"dan exhausts b", "", "", ""},
			{"dan next", "refused", "", ""},
		},
	))
}

// A backend is offered again at the exact end of its cooldown. It is still down
// then.
func TestCooldownEnds(t *testing.T) {
	play(t, "a b", time.Minute, slices.Concat(
		demotion("ann", "a", ", order b a, cooling until 1m0s", "a:struck b", "b a:cooling"),
		[]step{{"time passes 30s", "", "", ""}},
		demotion("bob", "b", ", order a b, cooling until 1m30s, all unavailable", "b:struck a:cooling", "a:cooling b:cooling"),
		[]step{
			{"p probes b", "b", "", ""},
			{"p succeeds b", "", "recovered after 0s", "a:cooling b"},
			{"time passes 29999ms", "", "", ""},
			{"cid next", "b", "", ""},
			{"time passes 1ms", "", "", "a:down b"},
			{"dan next", "a", "", ""},
			{"dan fails a", "retry if changed", "", ""}, // starts no new cooldown, no move and no event
			{"eve next", "a", "", ""},
		},
	))
}

// Cooling backends are tried in the order in which their cooldowns end. That is not
// always the order of the queue, because a demotion on one network moves a backend
// without a cooldown on the other.
func TestLongestCooledFirst(t *testing.T) {
	play(t, "a b c", time.Minute, slices.Concat(
		demotion("ann", "a", ", order b c a, cooling until 1m0s", "a:struck b c", "b c a:cooling"),
		[]step{{"time passes 10s", "", "", ""}},
		demotion("bob", "b", ", order c a b, cooling until 1m10s", "b:struck c a:cooling", "c a:cooling b:cooling"),
		[]step{
			{"time passes 1s", "", "", ""},
			{"u@udp probes a", "a", "", ""},
			{"u@udp fails a", "retry", "strike 1", "c a:cooling:udp-struck b:cooling"},
			{"u@udp again a", "a", "", ""},
			{"u@udp fails a", "next", "strike 2, demoted, order c b a, cooling until 1m11s", "c b:cooling a:cooling:udp-cooling"},
			{"cid next", "c", "", ""},
			{"cid exhausts c", "", "", ""},
			{"cid next", "a", "", ""}, // behind b, but its cooldown ends first
			{"cid exhausts a", "", "", ""},
			{"cid next", "b", "", ""},
			{"dan@udp next", "c", "", ""},
			{"dan@udp exhausts c", "", "", ""},
			{"dan@udp next", "b", "", ""}, // not cooling on UDP
		},
	))
}

// A recovered backend is not passed over.
func TestSuccessEndsCooldown(t *testing.T) {
	play(t, "a c", time.Hour, slices.Concat(
		demotion("ann", "a", ", order c a, cooling until 1h0m0s", "a:struck c", "c a:cooling"),
		recovery("a", "c a"),
		demotion("u@udp", "c", ", order a c, cooling until 1h0m0s", "c:udp-struck a", "a c:udp-cooling"),
		[]step{{"bob next", "a", "", ""}},
	))
}

// A success on one network does not end the cooldown on the other.
func TestSuccessEndsCooldownOfItsNetwork(t *testing.T) {
	play(t, "a c", time.Hour, slices.Concat(
		demotion("ann", "a", ", order c a, cooling until 1h0m0s", "a:struck c", "c a:cooling"),
		[]step{
			{"u@udp probes a", "a", "", ""},
			{"u@udp fails a", "retry", "strike 1", "c a:cooling:udp-struck"},
			{"u@udp again a", "a", "", ""},
			{"u@udp fails a", "next", "strike 2, demoted, cooling until 1h0m0s", "c a:cooling:udp-cooling"},
			{"p probes a", "a", "", ""},
			{"p succeeds a", "", "recovered after 0s", "c a:udp-cooling"},
			{"u@udp probes a", "a", "", ""},
			{"u@udp fails a", "retry if changed", "", ""}, // a probe of a down backend causes no strike either
			{"u@udp again a", "a", "", ""},
			{"u@udp succeeds a", "", "recovered after 0s", "c a"},
		},
	))
}

// The only backend is tried at once even if it is cooling, because a slow service is
// better than a refusal.
func TestOnlyBackendIsTriedWhileCooling(t *testing.T) {
	play(t, "a", time.Hour, slices.Concat(
		demotion("ann", "a", ", cooling until 1h0m0s, all unavailable", "a:struck", "a:cooling"),
		[]step{
			{"bob next", "a", "", ""},
			{"bob succeeds a", "", "recovered after 0s", "a"},
		},
	))
}

// The end of a cooldown is stored relative to the creation of the pool. The age of
// the pool makes no difference.
func TestCooldownOfAnOldPool(t *testing.T) {
	play(t, "a b", time.Minute, slices.Concat(
		[]step{{"time passes 87600h", "", "", ""}},
		demotion("ann", "a", ", order b a, cooling until 87600h1m0s", "a:struck b", "b a:cooling"),
		[]step{
			{"bob next", "b", "", ""},
			{"bob exhausts b", "", "", ""},
			{"bob next", "a", "", ""},
			{"time passes 1m", "", "", "b a:down"},
		},
	))
}
