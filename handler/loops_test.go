package handler

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

func at(text string) netip.AddrPort { return netip.MustParseAddrPort(text) }

// A listener is found by each address that leads to it.
func TestListenerAt(t *testing.T) {
	l := NewLoops()
	for _, text := range []string{"[::]:1", "0.0.0.0:2", "127.0.0.1:3", "192.0.2.1:4", "127.0.0.1:1"} {
		l.Listen(upstream.TCP, at(text))
	}
	for _, test := range []struct{ addr, local, want string }{
		{"127.0.0.2:1", "", "[::]:1"},
		{"127.0.0.1:1", "", "127.0.0.1:1"}, // the most specific one
		{"[::1]:1", "", "[::]:1"},
		{"[::ffff:127.0.0.2]:1", "", "[::]:1"},
		{"0.0.0.0:2", "", "0.0.0.0:2"},
		{"127.0.0.9:2", "", "0.0.0.0:2"},
		{"[::1]:2", "", ""},
		{"[::]:2", "", ""},
		{"0.0.0.0:3", "", "127.0.0.1:3"},
		{"127.0.0.2:3", "", ""},
		{"192.0.2.1:4", "", ""}, // not an address of this machine
		{"192.0.2.1:4", "192.0.2.1", "192.0.2.1:4"},
		{"192.0.2.9:1", "192.0.2.9", "[::]:1"},
		{"192.0.2.9:1", "192.0.2.8", ""},
		{"127.0.0.1:5", "", ""},
	} {
		local, _ := netip.ParseAddr(test.local)
		got, ok := l.listenerAt(upstream.TCP, at(test.addr), local)
		if ok != (test.want != "") || ok && got.at != at(test.want) {
			t.Errorf("%s leads to %v, %v; want %q", test.addr, got.at, ok, test.want)
		}
		if _, ok := l.listenerAt(upstream.UDP, at(test.addr), local); ok {
			t.Errorf("%s leads to a UDP listener", test.addr)
		}
	}
}

// A listener is known until it was released as often as it was recorded.
func TestListenRelease(t *testing.T) {
	l := NewLoops()
	one, other := l.Listen(upstream.UDP, at("127.0.0.1:1")), l.Listen(upstream.UDP, at("127.0.0.1:1"))
	one()
	one()
	if _, ok := l.listenerAt(upstream.UDP, at("127.0.0.1:1"), netip.Addr{}); !ok {
		t.Error("the listener is not known any more")
	}
	other()
	if _, ok := l.listenerAt(upstream.UDP, at("127.0.0.1:1"), netip.Addr{}); ok || len(l.listeners) > 0 {
		t.Error("the listener is still known")
	}
	if l.hasPort(upstream.UDP, 2) || l.hasPort(upstream.TCP, 1) {
		t.Error("a port is known that nothing listens on")
	}
}

// A listener on all IPv6 addresses alone has no IPv4 address: another program may
// have its port there.
func TestListenIPv6(t *testing.T) {
	l := NewLoops()
	release := l.ListenIPv6(upstream.TCP, 1)
	for addr, want := range map[string]bool{"[::1]:1": true, "[::]:1": true, "127.0.0.1:1": false, "0.0.0.0:1": false, "[::ffff:127.0.0.1]:1": false, "[::1]:2": false} {
		if _, ok := l.listenerAt(upstream.TCP, at(addr), netip.Addr{}); ok != want {
			t.Errorf("%s leads to the listener: %v, want %v", addr, ok, want)
		}
	}
	self := l.chainOf(t.Context(), upstream.TCP, "a", socketAddrs{stranger, at("[::1]:1")})
	to, _ := l.listenerAt(upstream.TCP, at("[::1]:1"), netip.Addr{})
	if err := self.check(to); err == nil || !strings.Contains(err.Error(), "listens on [::]:1") {
		t.Errorf("error %v", err)
	}
	release()
	if len(l.listeners) > 0 {
		t.Error("the listener is still known")
	}
}

// A service's own listener may be another service's after a reload. Then it is a
// backend like any other.
func TestOwnListenerAfterReload(t *testing.T) {
	r := newRig(t, []string{"127.0.0.1:1"}, func(o *Options) { o.Loops = NewLoops() })
	l := r.relay.opts.Loops
	ended := l.Listen(upstream.TCP, at("127.0.0.1:1"))
	self := l.chainOf(t.Context(), upstream.TCP, "test", socketAddrs{stranger, at("127.0.0.1:1")})
	if err := self.check(listenerKey{network: upstream.TCP, at: at("127.0.0.1:1")}); err == nil {
		t.Fatal("the loop was not found")
	}
	l.Listen(upstream.TCP, at("127.0.0.1:1")) // of the next config
	ended()
	if _, err := r.relay.withoutOwn(upstream.TCP, addrsOf("127.0.0.1"), 1); err != nil {
		t.Errorf("health checks still fail: %v", err)
	}
}

// loopRig makes hops between services that listen on 127.0.0.1, each on a port of
// its own.
type loopRig struct {
	t    *testing.T
	n    upstream.Network
	l    *Loops
	next uint16 // local port of the next hop
}

func newLoopRig(t *testing.T, n upstream.Network, ports ...uint16) *loopRig {
	r := &loopRig{t: t, n: n, l: NewLoops(), next: 40000}
	for _, port := range ports {
		r.l.Listen(n, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
	}
	return r
}

func (r *loopRig) local(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
}

// client returns the relay of a client of a service. Its address is not that of a
// hop, unless from is a hop.
func (r *loopRig) client(service string, from netip.AddrPort, port uint16) *chain {
	return r.l.chainOf(r.t.Context(), r.n, service, socketAddrs{from, r.local(port)})
}

// hop makes a hop to the listener on a port and returns its local address.
func (r *loopRig) hop(c *chain, port uint16) netip.AddrPort {
	r.t.Helper()
	if err := r.check(c, port); err != nil {
		r.t.Fatalf("hop of %s to port %d: %v", c.service, port, err)
	}
	r.next++
	local := r.local(r.next)
	if r.n == upstream.UDP {
		c.add(local)
		return local
	}
	_ = c.dial(listenerKey{network: r.n, at: r.local(port)}, func() (_, _ netip.AddrPort, err error) { return local, r.local(port), nil })
	return local
}

func (r *loopRig) check(c *chain, port uint16) error {
	return c.check(listenerKey{network: r.n, at: r.local(port)})
}

// wantLoop checks that a hop would lead back to a service.
func (r *loopRig) wantLoop(c *chain, port uint16, service string) {
	r.t.Helper()
	var loop *loopError
	if err := r.check(c, port); !errors.As(err, &loop) || loop.service != service {
		r.t.Errorf("hop of %s to port %d: error %v, want it to lead back to %s", c.service, port, err, service)
	}
}

var stranger = at("192.0.2.1:50000")

func overNetworks(t *testing.T, test func(t *testing.T, n upstream.Network)) {
	for _, n := range []upstream.Network{upstream.TCP, upstream.UDP} {
		t.Run(n.String(), func(t *testing.T) { test(t, n) })
	}
}

// A relay is not its own backend, also over other relays. Chains without a loop are
// allowed.
func TestLoopsAreFound(t *testing.T) {
	overNetworks(t, func(t *testing.T, n upstream.Network) {
		r := newLoopRig(t, n, 1, 2, 3)
		a := r.client("a", stranger, 1)
		r.wantLoop(a, 1, "a")

		b := r.client("b", r.hop(a, 2), 2)
		r.wantLoop(b, 1, "a")
		r.wantLoop(b, 2, "b")

		c := r.client("c", r.hop(b, 3), 3)
		r.wantLoop(c, 1, "a")
		r.wantLoop(c, 2, "b")

		// Another client of b comes from elsewhere, so its chain has no a.
		direct := r.client("b", stranger, 2)
		again := r.client("a", r.hop(direct, 1), 1)
		r.wantLoop(again, 2, "b")
		r.hop(again, 3)
	})
}

// A service that listens on two addresses is not its own backend for ever.
func TestLoopOverTwoListeners(t *testing.T) {
	overNetworks(t, func(t *testing.T, n upstream.Network) {
		r := newLoopRig(t, n, 1, 2, 3)
		first := r.client("a", stranger, 1)
		second := r.client("a", r.hop(first, 2), 2)
		r.wantLoop(second, 3, "a")
	})
}

// The hops of a relay are forgotten when it ends, also those that come later.
func TestHopsEndWithTheirRelay(t *testing.T) {
	overNetworks(t, func(t *testing.T, n upstream.Network) {
		r := newLoopRig(t, n, 1, 2)
		a := r.client("a", stranger, 1)
		first := r.hop(a, 2)
		a.leave()
		second := r.hop(a, 2)
		for _, local := range []netip.AddrPort{first, second} {
			if b := r.client("b", local, 2); b.parent != nil {
				t.Errorf("the client from %s is still known", local)
			}
		}
		if len(r.l.hops) > 0 || len(a.hops) > 0 {
			t.Errorf("%d hops are left", len(r.l.hops))
		}
	})
}

// A relay whose client is a hop that has not returned from its dial yet waits for
// that, but not for ever.
func TestChainWaitsForDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newLoopRig(t, upstream.TCP, 1, 2)
		a := r.client("a", stranger, 1)
		hop, connected := r.local(40001), make(chan bool)
		go func() {
			_ = a.dial(listenerKey{network: upstream.TCP, at: r.local(2)}, func() (_, _ netip.AddrPort, err error) {
				<-connected
				return hop, r.local(2), nil
			})
		}()
		synctest.Wait()

		if b := r.client("b", r.local(40002), 1); b.parent != nil {
			t.Error("a client of another listener has waited for the hop")
		}
		began := time.Now()
		if b := r.client("b", r.local(40002), 2); b.parent != nil || time.Since(began) != hopWait {
			t.Errorf("another client has waited %v, want %v", time.Since(began), hopWait)
		}
		began = time.Now()
		if b := r.client("b", stranger, 2); b.parent != nil || time.Since(began) != 0 {
			t.Error("a client of another machine has waited")
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if b := r.l.chainOf(gone, upstream.TCP, "b", socketAddrs{hop, r.local(2)}); b.parent != nil {
			t.Error("a client that has left has waited")
		}
		time.AfterFunc(hopWait/2, func() { close(connected) })
		if b := r.client("b", hop, 2); b.parent != a {
			t.Error("the client was not found")
		}
		r.wantLoop(r.client("b", hop, 2), 1, "a")
	})
}

// A client of this machine that is no hop waits only for the dials that had begun
// when it came, however many others follow.
func TestChainWaitsForEarlierDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newLoopRig(t, upstream.TCP, 1, 2)
		a := r.client("a", stranger, 1)
		const takes = hopWait / 10
		dial := func() {
			_ = a.dial(listenerKey{network: upstream.TCP, at: r.local(2)}, func() (_, _ netip.AddrPort, err error) {
				time.Sleep(takes)
				return r.local(40001), r.local(2), nil
			})
		}
		ctx, stop := context.WithCancel(t.Context())
		for range 2 { // there is always a dial in progress
			go func() {
				for ctx.Err() == nil {
					dial()
				}
			}()
			time.Sleep(takes / 2)
		}
		began := time.Now()
		if b := r.client("b", r.local(40002), 2); b.parent != nil || time.Since(began) > takes {
			t.Errorf("waited for %v, want at most %v", time.Since(began), takes)
		}
		stop()
		synctest.Wait()
		time.Sleep(takes)
	})
}

// The bucket lets unansweredRate sessions pass at once, and as many each second.
// An answer makes room.
func TestUnansweredLimit(t *testing.T) {
	var u unansweredLimit
	now := time.Hour
	takeAll := func() (taken int) {
		for u.take(now) {
			taken++
		}
		return taken
	}
	if got := takeAll(); got != unansweredRate {
		t.Errorf("%d sessions at once, want %d", got, unansweredRate)
	}
	u.giveBack()
	if got := takeAll(); got != 1 {
		t.Errorf("%d sessions after one answer, want 1", got)
	}
	now += time.Second / 2
	if got := takeAll(); got != unansweredRate/2 {
		t.Errorf("%d sessions after half a second, want %d", got, unansweredRate/2)
	}
	now += time.Hour
	if got := takeAll(); got != unansweredRate {
		t.Errorf("%d sessions after an hour, want %d", got, unansweredRate)
	}
	for range 100_000 { // answered at once
		now += time.Microsecond
		u.giveBack()
		if !u.take(now) {
			t.Fatal("a session was refused although all others are answered")
		}
	}
}

// A local backend's own listener fails health checks once a client was refused
// because of it, and other addresses of the name are still probed.
func TestHealthCheckOfOwnListener(t *testing.T) {
	r := newRig(t, []string{"self.test:1"}, func(o *Options) { o.Loops = NewLoops() })
	l := r.relay.opts.Loops
	l.Listen(upstream.TCP, at("127.0.0.1:1"))
	addrs := addrsOf("127.0.0.1", "192.0.2.1")
	if got, err := r.relay.withoutOwn(upstream.TCP, addrs, 1); err != nil || len(got) != 2 {
		t.Errorf("before a client: %v, %v", got, err)
	}
	self := l.chainOf(t.Context(), upstream.TCP, "test", socketAddrs{stranger, at("127.0.0.1:1")})
	if err := self.check(listenerKey{network: upstream.TCP, at: at("127.0.0.1:1")}); err == nil {
		t.Fatal("the loop was not found")
	}
	if got, err := r.relay.withoutOwn(upstream.TCP, addrs, 1); err != nil || len(got) != 1 || got[0] != addrs[1] {
		t.Errorf("after a client: %v, %v", got, err)
	}
	_, err := r.relay.withoutOwn(upstream.TCP, addrs[:1], 1)
	if err == nil || !strings.Contains(err.Error(), `leads back to service "test"`) {
		t.Errorf("error %v", err)
	}
}
