package upstream

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// Exhaust affects only its client.
func TestExhaustIsNoStrike(t *testing.T) {
	play(t, "a b", 0, []step{
		{"ann next", "a", "", ""},
		{"ann exhausts a", "", "", ""},
		{"ann exhausts a", "", "", ""}, // has no further effect
		{"ann next", "b", "", ""},
		{"ann exhausts b", "", "", ""},
		{"ann next", "refused", "", ""},
		{"bob next", "a", "", ""},
	})
}

// While the queue changes, a client is offered each backend that it has not
// exhausted, wherever it is now, and none twice.
func TestWalkThroughAChangingQueue(t *testing.T) {
	play(t, "a b c", 0, slices.Concat(
		[]step{
			{"ann next", "a", "", ""},
			{"ann exhausts a", "", "", ""},
		},
		demotion("bob", "a", ", order b c a", "a:struck b c", "b c a:down"),
		demotion("bob", "b", ", order c a b", "b:struck c a:down", "c a:down b:down"),
		[]step{
			{"ann next", "c", "", ""},
			{"ann exhausts c", "", "", ""},
			{"ann next", "b", "", ""},
			{"ann exhausts b", "", "", ""},
			{"ann next", "refused", "", ""},
		},
	))
}

// Next returns the same backend again if no result was reported.
func TestNextWithoutResult(t *testing.T) {
	play(t, "a b", 0, []step{
		{"ann next", "a", "", ""},
		{"ann next", "a", "", ""},
	})
}

// A UDP session waits for the next answer of its backend, wherever that is in the
// queue by then. The previous answer ended the earlier round of attempts.
func TestResume(t *testing.T) {
	play(t, "a b", time.Minute, slices.Concat(
		[]step{
			{"ann@udp next", "a", "", ""},
			{"ann@udp exhausts a", "", "", ""},
			{"ann@udp next", "b", "", ""},
			{"ann@udp succeeds b", "", "", ""},
			{"operator drains b", "", "", "a b:draining"},
			{"ann@udp resumes b", "b", "", ""}, // although b is drained and not the first
			{"ann@udp fails b", "retry", "strike 1", ""},
			{"operator resumes b", "", "", "a b:udp-struck"},
			{"ann@udp again b", "b", "", ""},
			{"ann@udp fails b", "next", "strike 2, demoted, cooling until 1m0s", "a b:udp-cooling"},
			{"ann@udp next", "a", "", ""}, // exhausted in the first round only
			{"ann@udp succeeds a", "", "", ""},
			{"bob@udp resumes b", "b", "", ""}, // cooling
			{"bob@udp fails b", "retry if changed", "", ""},
			{"bob@udp exhausts b", "", "", ""},
			{"bob@udp next", "a", "", ""},
		},
	))
}

// A probe gets only its own backend, whatever its place is, and at most two attempts.
func TestProbeStaysWithItsBackend(t *testing.T) {
	play(t, "a b c", time.Minute, []step{
		{"p probes b", "b", "", ""},
		{"p fails b", "retry", "strike 1", "a b:struck c"},
		{"p again b", "b", "", ""},
		{"p fails b", "next", "strike 2, demoted, order a c b, cooling until 1m0s", "a c b:cooling"},
		{"p again b", "refused", "", ""},
		{"p next", "refused", "", ""},
		{"q probes b", "b", "", ""}, // probes ignore the cooldown
		{"q fails b", "retry if changed", "", ""},
		{"q exhausts b", "", "", ""},
		{"q next", "refused", "", ""},
		{"r@udp probes b", "b", "", ""},
		{"r@udp fails b", "retry", "strike 1", "a c b:cooling:udp-struck"},
		{"r@udp exhausts b", "", "", ""},
		{"r@udp next", "refused", "", ""},
	})
}

// A probe and a client that fail together cause one strike, as two clients do.
func TestProbesAndClientsShareStrikes(t *testing.T) {
	play(t, "a b", 0, []step{
		{"p probes a", "a", "", ""},
		{"ann next", "a", "", ""},
		{"p fails a", "retry", "strike 1", "a:struck b"},
		{"ann fails a", "retry", "", ""},
		{"p again a", "a", "", ""},
		{"ann again a", "a", "", ""},
		{"ann fails a", "next", "strike 2, demoted, order b a", "b a:down"},
		{"p fails a", "next", "", ""},
	})
}

func TestPreferred(t *testing.T) {
	var (
		v4 = netip.MustParseAddr("192.0.2.1")
		v6 = netip.MustParseAddr("2001:db8::1")
		b  = NewPool(addresses("a"), 0, start).Backend("a")
	)
	want := func(tcp, udp netip.Addr) {
		t.Helper()
		if got := b.Preferred(TCP); got != tcp {
			t.Errorf("preferred on TCP is %v, want %v", got, tcp)
		}
		if got := b.Preferred(UDP); got != udp {
			t.Errorf("preferred on UDP is %v, want %v", got, udp)
		}
	}
	want(netip.Addr{}, netip.Addr{})
	b.Prefer(TCP, v6)
	want(v6, netip.Addr{})
	b.Prefer(UDP, v4)
	b.Prefer(TCP, v6)
	want(v6, v4)
	b.Prefer(TCP, v4)
	want(v4, v4)
	if n := testing.AllocsPerRun(100, func() { b.Prefer(TCP, v4) }); n != 0 {
		t.Errorf("storing the same address again: %v allocations", n)
	}
}
