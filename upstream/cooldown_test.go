package upstream

import (
	"testing"
	"time"
)

// A cooling backend is passed over while the client has another left, and
// tried before the client is refused.
func TestCoolingIsPassedOver(t *testing.T) {
	play(t, "a b c", time.Minute, tell(
		goesDown("ann", "a", ", order b c a, cooling until 1m0s", "a:struck b c", "b c a:cooling"),
		[]step{{"time passes 10s", "", "", ""}},
		goesDown("bob", "b", ", order c a b, cooling until 1m10s", "b:struck c a:cooling", "c a:cooling b:cooling"),
		[]step{{"time passes 10s", "", "", ""}},
		goesDown("cid", "c", ", order a b c, cooling until 1m20s, all unavailable", "c:struck a:cooling b:cooling", "a:cooling b:cooling c:cooling"),
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

// The cooldown is over at its end, not after it; a is still down then, but has
// its place in the queue again.
func TestCooldownEnds(t *testing.T) {
	play(t, "a b", time.Minute, tell(
		goesDown("ann", "a", ", order b a, cooling until 1m0s", "a:struck b", "b a:cooling"),
		[]step{{"time passes 30s", "", "", ""}},
		goesDown("bob", "b", ", order a b, cooling until 1m30s, all unavailable", "b:struck a:cooling", "a:cooling b:cooling"),
		[]step{
			{"p probes b", "b", "", ""},
			{"p succeeds b", "", "recovered after 0s", "a:cooling b"},
			{"time passes 29999ms", "", "", ""},
			{"cid next", "b", "", ""},
			{"time passes 1ms", "", "", "a:down b"},
			{"dan next", "a", "", ""},
			{"dan fails a", "retry if changed", "", ""}, // does not cool anew: no event, no move
			{"eve next", "a", "", ""},
		},
	))
}

// Longest-cooled first is not the order of the queue: strikes of the other
// network move a backend without cooling it here.
func TestLongestCooledFirst(t *testing.T) {
	play(t, "a b c", time.Minute, tell(
		goesDown("ann", "a", ", order b c a, cooling until 1m0s", "a:struck b c", "b c a:cooling"),
		[]step{{"time passes 10s", "", "", ""}},
		goesDown("bob", "b", ", order c a b, cooling until 1m10s", "b:struck c a:cooling", "c a:cooling b:cooling"),
		[]step{
			{"time passes 1s", "", "", ""},
			{"u@udp probes a", "a", "", ""},
			{"u@udp fails a", "retry", "strike 1", "c a:cooling:udp-struck b:cooling"},
			{"u@udp again a", "a", "", ""},
			{"u@udp fails a", "next", "strike 2, demoted, order c b a, cooling until 1m11s", "c b:cooling a:cooling:udp-cooling"},
			{"cid next", "c", "", ""},
			{"cid exhausts c", "", "", ""},
			{"cid next", "a", "", ""}, // behind b, but due before it
			{"cid exhausts a", "", "", ""},
			{"cid next", "b", "", ""},
			{"dan@udp next", "c", "", ""},
			{"dan@udp exhausts c", "", "", ""},
			{"dan@udp next", "b", "", ""}, // not cooling on UDP
		},
	))
}

// A recovered backend is not passed over, though c, behind it, never cooled.
func TestSuccessEndsCooldown(t *testing.T) {
	play(t, "a c", time.Hour, tell(
		goesDown("ann", "a", ", order c a, cooling until 1h0m0s", "a:struck c", "c a:cooling"),
		[]step{
			{"p probes a", "a", "", ""},
			{"p succeeds a", "", "recovered after 0s", "c a"},
		},
		goesDown("u@udp", "c", ", order a c, cooling until 1h0m0s", "c:udp-struck a", "a c:udp-cooling"),
		[]step{{"bob next", "a", "", ""}},
	))
}

// A success on one network says nothing of the other: its cooldown goes on.
func TestSuccessEndsCooldownOfItsNetwork(t *testing.T) {
	play(t, "a c", time.Hour, tell(
		goesDown("ann", "a", ", order c a, cooling until 1h0m0s", "a:struck c", "c a:cooling"),
		[]step{
			{"u@udp probes a", "a", "", ""},
			{"u@udp fails a", "retry", "strike 1", "c a:cooling:udp-struck"},
			{"u@udp again a", "a", "", ""},
			{"u@udp fails a", "next", "strike 2, demoted, cooling until 1h0m0s", "c a:cooling:udp-cooling"},
			{"p probes a", "a", "", ""},
			{"p succeeds a", "", "recovered after 0s", "c a:udp-cooling"},
			{"u@udp probes a", "a", "", ""},
			{"u@udp fails a", "retry if changed", "", ""}, // a probe is no client: no strike either
			{"u@udp again a", "a", "", ""},
			{"u@udp succeeds a", "", "recovered after 0s", "c a"},
		},
	))
}

// A single cooling backend is tried at once: refusing while a backend may live
// is worse than being slow.
func TestOnlyBackendIsTriedThoughCooling(t *testing.T) {
	play(t, "a", time.Hour, tell(
		goesDown("ann", "a", ", cooling until 1h0m0s, all unavailable", "a:struck", "a:cooling"),
		[]step{
			{"bob next", "a", "", ""},
			{"bob succeeds a", "", "recovered after 0s", "a"},
		},
	))
}

// The end of a cooldown is reckoned from when the pool was made; being made
// long ago, or a moment ago, makes no difference.
func TestCooldownOfAnOldPool(t *testing.T) {
	play(t, "a b", time.Minute, tell(
		[]step{{"time passes 87600h", "", "", ""}},
		goesDown("ann", "a", ", order b a, cooling until 87600h1m0s", "a:struck b", "b a:cooling"),
		[]step{
			{"bob next", "b", "", ""},
			{"bob exhausts b", "", "", ""},
			{"bob next", "a", "", ""},
			{"time passes 1m", "", "", "b a:down"},
		},
	))
}
