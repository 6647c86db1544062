package handler

import (
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// A dead address of a backend with a live one causes no strike.
func TestDeadAndLiveAddress(t *testing.T) {
	relaytest.NoLeaks(t)
	live := serveTCP(t, lo(t, 2)+":0", greet("live"))
	dead := deadTCP(t, hostPort(lo(t, 3), live.String()))
	r := newRig(t, []string{hostPort("a.test", dead)})
	r.resolver.set("a.test", addrsAnswer(lo(t, 3), lo(t, 2)))
	ann, _ := r.client()
	relaytest.WantRead(t, ann, "live")
	line := r.line("connected").ContextMap()
	if line["address"] != live.String() {
		t.Errorf("connected to %v, want %s", line["address"], live)
	}
	r.wantLines("backend failed, first strike", 0)

	// The next client tries the address that served first.
	bob, _ := r.client()
	relaytest.WantRead(t, bob, "live")
	if got := r.service.Pool.Backend(hostPort("a.test", dead)).Preferred(upstream.TCP); got != addrsOf(lo(t, 2))[0] {
		t.Errorf("preferred address %v, want %s", got, lo(t, 2))
	}
}

// After a refusal the next address is dialled at once. With a wait of dial.Stagger
// after each, the dead addresses would take eight seconds.
func TestDeadAddressesCauseNoDelay(t *testing.T) {
	relaytest.NoLeaks(t)
	live := serveTCP(t, lo(t, 2)+":0", greet("live"))
	var list []string
	for n := range 32 {
		list = append(list, lo(t, 3+n))
		deadTCP(t, hostPort(lo(t, 3+n), live.String()))
	}
	r := newRig(t, []string{hostPort("a.test", live.String())})
	r.resolver.set("a.test", addrsAnswer(append(list, lo(t, 2))...))
	ann, _ := r.client()
	relaytest.WantRead(t, ann, "live")
	if took := r.line("connected").ContextMap()["duration"].(time.Duration); took > 4*time.Second {
		t.Errorf("connected after %v, want at most 4s", took)
	}
}

// A silent address delays the first client by dial.Stagger and causes no strike.
// The next client tries the live address first.
func TestSilentAndLiveAddress(t *testing.T) {
	relaytest.NoLeaks(t)
	silent := newSilentTCP(t, lo(t, 2)+":0")
	live := serveTCP(t, hostPort(lo(t, 3), silent.String()), greet("live"))
	r := newRig(t, []string{hostPort("a.test", live.String())})
	r.resolver.set("a.test", addrsAnswer(lo(t, 2), lo(t, 3)))
	ann, _ := r.client()
	relaytest.WantRead(t, ann, "live")
	first := r.line("connected").ContextMap()["duration"].(time.Duration)
	if first < dial.Stagger || first > relaytest.Limit/2 {
		t.Errorf("the first client waited %v, want between %v and %v", first, dial.Stagger, relaytest.Limit/2)
	}
	// A later client waits for the silent address no more. On a busy machine it may
	// wait for something else.
	relaytest.Eventually(t, "a client that waits for less than the stagger", func() bool {
		r.logs.TakeAll()
		bob, _ := r.client()
		relaytest.WantRead(t, bob, "live")
		return r.line("connected").ContextMap()["duration"].(time.Duration) < dial.Stagger
	})
	r.wantLines("backend failed, first strike", 0)
}

// A dead address of one family does not prevent a connection over the other.
func TestBothFamilies(t *testing.T) {
	relaytest.NoLeaks(t)
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
			relaytest.WantRead(t, ann, "live")
			r.wantLines("backend failed, first strike", 0)
		})
	}
}

// Every address is dialled within the connect timeout, also if it is short and
// there are many silent addresses.
func TestEveryAddressIsDialled(t *testing.T) {
	relaytest.NoLeaks(t)
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
	// On a busy machine the last address may be dialled too late, now and then.
	relaytest.Eventually(t, "a client that is served by the last address", func() bool {
		ann, _ := r.client()
		got, _ := io.ReadAll(io.LimitReader(ann, 4))
		return string(got) == "live"
	})
}

// If all addresses are silent, the error has the timeout and each address.
func TestAllAddressesSilent(t *testing.T) {
	relaytest.NoLeaks(t)
	one := newSilentTCP(t, lo(t, 2)+":0")
	other := newSilentTCP(t, hostPort(lo(t, 3), one.String()))
	relaytest.Eventually(t, "an error with both addresses", func() bool {
		r := newRig(t, []string{hostPort("a.test", one.String())}, func(o *Options) { o.ConnectTimeout = 50 * time.Millisecond })
		r.resolver.set("a.test", addrsAnswer(lo(t, 2), lo(t, 3)))
		ann, _ := r.client()
		wantEnding(t, "the client", ann, "RST")
		text := r.line("backend failed, first strike").ContextMap()["error"].(string)
		if !strings.Contains(text, one.String()) || !strings.Contains(text, "timeout") {
			t.Errorf("error %q contains no timeout of %s", text, one)
		}
		t.Log(text)
		// A busy machine may dial the second address too late, now and then.
		return strings.Contains(text, other.String())
	})
}
