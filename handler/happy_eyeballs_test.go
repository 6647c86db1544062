package handler

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/upstream"
)

// A dead address beside a live one costs nothing: no strike, no wait.
func TestDeadAddressBesideALiveOne(t *testing.T) {
	noLeaks(t)
	live := serveTCP(t, lo(t, 2)+":0", greet("live"))
	dead := deadTCP(t, hostPort(lo(t, 3), live.String()))
	r := newRig(t, []string{hostPort("a.test", dead)})
	r.resolver.set("a.test", addrsAnswer(lo(t, 3), lo(t, 2)))
	ann, _ := r.client()
	hear(t, ann, "live")
	line := r.line("connected").ContextMap()
	if line["address"] != live.String() {
		t.Errorf("connected to %v", line["address"])
	}
	r.wantLines("backend failed, first strike", 0)

	// The next client tries first what served.
	bob, _ := r.client()
	hear(t, bob, "live")
	if got := r.service.Pool.Backend(hostPort("a.test", dead)).Preferred(upstream.TCP); got != addrsOf(lo(t, 2))[0] {
		t.Errorf("preferred is %v", got)
	}
}

// Nor do many: each goes on to the next at once. Were a quarter of a second
// waited for each, it would be eight.
func TestDeadAddressesAreNotWaitedFor(t *testing.T) {
	noLeaks(t)
	live := serveTCP(t, lo(t, 2)+":0", greet("live"))
	var list []string
	for n := range 32 {
		list = append(list, lo(t, 3+n))
		deadTCP(t, hostPort(lo(t, 3+n), live.String()))
	}
	r := newRig(t, []string{hostPort("a.test", live.String())})
	r.resolver.set("a.test", addrsAnswer(append(list, lo(t, 2))...))
	ann, _ := r.client()
	hear(t, ann, "live")
	if took := r.line("connected").ContextMap()["duration"].(time.Duration); took > 4*time.Second {
		t.Errorf("connected after %v", took)
	}
}

// A silent one costs the first client a moment, the next none, and no strike.
// That the first waits, and the next does not, is seen by who is dialled.
func TestSilentAddressBesideALiveOne(t *testing.T) {
	noLeaks(t)
	silent := newSilentTCP(t, lo(t, 2)+":0")
	live := serveTCP(t, hostPort(lo(t, 3), silent.String()), greet("live"))
	r := newRig(t, []string{hostPort("a.test", live.String())})
	r.resolver.set("a.test", addrsAnswer(lo(t, 2), lo(t, 3)))
	ann, _ := r.client()
	hear(t, ann, "live")
	first := r.line("connected").ContextMap()["duration"].(time.Duration)
	if first < dial.Stagger || first > limit/2 {
		t.Errorf("the first client waited %v, want a little more than %v", first, dial.Stagger)
	}
	r.logs.TakeAll()
	bob, _ := r.client()
	hear(t, bob, "live")
	if next := r.line("connected").ContextMap()["duration"].(time.Duration); next >= first {
		t.Errorf("the second client waited %v, the first %v", next, first)
	}
	r.wantLines("backend failed, first strike", 0)
}

func TestBothFamilies(t *testing.T) {
	noLeaks(t)
	for _, test := range []struct{ name, live, dead string }{
		{"IPv6 dead, IPv4 live", lo(t, 2), "::1"},
		{"IPv4 dead, IPv6 live", "::1", lo(t, 3)},
	} {
		t.Run(test.name, func(t *testing.T) {
			live := serveTCP(t, netip.AddrPortFrom(addrsOf(test.live)[0], 0).String(), greet("live"))
			deadTCP(t, hostPort(test.dead, live.String()))
			r := newRig(t, []string{hostPort("a.test", live.String())})
			r.resolver.set("a.test", addrsAnswer(test.dead, test.live))
			ann, _ := r.client()
			hear(t, ann, "live")
			r.wantLines("backend failed, first strike", 0)
		})
	}
}

// However short the connect timeout and many the silent addresses, each gets
// its turn.
func TestEveryAddressHasItsTurn(t *testing.T) {
	noLeaks(t)
	silent := []*silentTCP{newSilentTCP(t, lo(t, 2)+":0")}
	list := []string{lo(t, 2)}
	for n := range 3 {
		ip := lo(t, 3+n)
		silent = append(silent, newSilentTCP(t, hostPort(ip, silent[0].String())))
		list = append(list, ip)
	}
	live := serveTCP(t, hostPort(lo(t, 6), silent[0].String()), greet("live"))
	list = append(list, lo(t, 6))
	r := newRig(t, []string{hostPort("a.test", live.String())}, func(o *Options) { o.ConnectTimeout = dial.Stagger * 3 })
	r.resolver.set("a.test", addrsAnswer(list...))
	ann, _ := r.client()
	hear(t, ann, "live")
}

// All silent: the timeout is said for each, with its address.
func TestAllAddressesAreSilent(t *testing.T) {
	noLeaks(t)
	one := newSilentTCP(t, lo(t, 2)+":0")
	other := newSilentTCP(t, hostPort(lo(t, 3), one.String()))
	r := newRig(t, []string{hostPort("a.test", one.String())}, func(o *Options) { o.ConnectTimeout = 50 * time.Millisecond })
	r.resolver.set("a.test", addrsAnswer(lo(t, 2), lo(t, 3)))
	ann, _ := r.client()
	wantEnding(t, "the client", ann, "RST")
	text := r.line("backend failed, first strike").ContextMap()["error"].(string)
	for _, want := range []string{one.String(), other.String(), "timeout"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q does not tell of %s", text, want)
		}
	}
}

func TestPreferredFirst(t *testing.T) {
	a, b, c := addrsOf("192.0.2.1")[0], addrsOf("2001:db8::1")[0], addrsOf("192.0.2.2")[0]
	given := []netip.Addr{a, b, c}
	for _, test := range []struct {
		want netip.Addr
		got  []netip.Addr
	}{
		{a, []netip.Addr{a, b, c}},
		{b, []netip.Addr{b, a, c}},
		{c, []netip.Addr{c, a, b}},
		{netip.Addr{}, []netip.Addr{a, b, c}},
		{addrsOf("192.0.2.9")[0], []netip.Addr{a, b, c}},
	} {
		if got := preferredFirst(given, test.want); !slices.Equal(got, test.got) {
			t.Errorf("%v in front: %v, want %v", test.want, got, test.got)
		}
	}
	if !slices.Equal(given, []netip.Addr{a, b, c}) {
		t.Error("the resolver's slice was edited")
	}
	if !sameSet(given, []netip.Addr{c, a, b}) || sameSet(given, given[:2]) || sameSet(given[:2], given) || sameSet(given, nil) {
		t.Error("sets are compared wrongly")
	}
}
