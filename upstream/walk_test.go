package upstream

import (
	"net/netip"
	"testing"
	"time"
)

// A failure of our own side ends the backend for this client alone.
func TestExhaustIsNoStrike(t *testing.T) {
	play(t, "a b", 0, []step{
		{"ann next", "a", "", ""},
		{"ann exhausts a", "", "", ""},
		{"ann exhausts a", "", "", ""}, // twice is once
		{"ann next", "b", "", ""},
		{"ann exhausts b", "", "", ""},
		{"ann next", "refused", "", ""},
		{"bob next", "a", "", ""},
	})
}

// A client keeps its own tally while the queue changes under it: it is offered
// what it has not tried, wherever that stands now, and nothing twice.
func TestWalkThroughAChangingQueue(t *testing.T) {
	play(t, "a b c", 0, tell(
		[]step{
			{"ann next", "a", "", ""},
			{"ann exhausts a", "", "", ""},
		},
		goesDown("bob", "a", ", order b c a", "a:struck b c", "b c a:down"),
		goesDown("bob", "b", ", order c a b", "b:struck c a:down", "c a:down b:down"),
		[]step{
			{"ann next", "c", "", ""},
			{"ann exhausts c", "", "", ""},
			{"ann next", "b", "", ""},
			{"ann exhausts b", "", "", ""},
			{"ann next", "refused", "", ""},
		},
	))
}

// Next alone does not end a backend: without a report it is the same again.
func TestNextWithoutReport(t *testing.T) {
	play(t, "a b", 0, []step{
		{"ann next", "a", "", ""},
		{"ann next", "a", "", ""},
	})
}

// A UDP session has its backend, and begins to wait for the next answer there,
// wherever it stands by then. The answer before ended the earlier round.
func TestResume(t *testing.T) {
	play(t, "a b", time.Minute, tell(
		[]step{
			{"ann@udp next", "a", "", ""},
			{"ann@udp exhausts a", "", "", ""},
			{"ann@udp next", "b", "", ""},
			{"ann@udp succeeds b", "", "", ""},
			{"operator drains b", "", "", "a b:draining"},
			{"ann@udp resumes b", "b", "", ""}, // drained, not first: it is hers
			{"ann@udp fails b", "retry", "strike 1", ""},
			{"operator resumes b", "", "", "a b:udp-struck"},
			{"ann@udp again b", "b", "", ""},
			{"ann@udp fails b", "next", "strike 2, demoted, cooling until 1m0s", "a b:udp-cooling"},
			{"ann@udp next", "a", "", ""}, // exhausted in the first round, open again in this
			{"ann@udp succeeds a", "", "", ""},
			{"bob@udp resumes b", "b", "", ""}, // cooling
			{"bob@udp fails b", "retry if changed", "", ""},
			{"bob@udp exhausts b", "", "", ""},
			{"bob@udp next", "a", "", ""},
		},
	))
}

// A probe knows its backend alone, whatever its place, and asks twice at most.
func TestProbeStaysWithItsBackend(t *testing.T) {
	play(t, "a b c", time.Minute, []step{
		{"p probes b", "b", "", ""},
		{"p fails b", "retry", "strike 1", "a b:struck c"},
		{"p again b", "b", "", ""},
		{"p fails b", "next", "strike 2, demoted, order a c b, cooling until 1m0s", "a c b:cooling"},
		{"p again b", "refused", "", ""},
		{"p next", "refused", "", ""},
		{"q probes b", "b", "", ""}, // cooling is for clients
		{"q fails b", "retry if changed", "", ""},
		{"q exhausts b", "", "", ""},
		{"q next", "refused", "", ""},
		{"r@udp probes b", "b", "", ""},
		{"r@udp fails b", "retry", "strike 1", "a c b:cooling:udp-struck"},
		{"r@udp exhausts b", "", "", ""},
		{"r@udp next", "refused", "", ""},
	})
}

// A probe and a client that fail together are one strike, as two clients are.
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
		t.Errorf("preferring what is preferred allocates %v times", n)
	}
}
