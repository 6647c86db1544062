package handler

import (
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// errNoRoute is a local error.
var errNoRoute = os.NewSyscallError("connect", syscall.ENETUNREACH)

func TestUDPAddresses(t *testing.T) {
	twoAddresses := func(t *testing.T, edit ...func(*Options)) *udpRig {
		r := newUDPRig(t, []string{"a.example:53", "192.0.2.9:53"}, edit...)
		r.resolver.setCached("a.example", "192.0.2.1", "192.0.2.2")
		return r
	}
	t.Run("one refuses: the next one is tried in the same attempt", func(t *testing.T) {
		r := twoAddresses(t)
		client := new(udpClient)
		r.deliver(1, client, "a")
		r.engine.socket(1).sink.Failed(errRefused)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 close", "2 open 192.0.2.2:53", "2 < a")
		r.wantStrikes("a.example:53", 0, upstream.Up)
		r.engine.socket(2).answer("A")
		client.wants(t, "A")
	})
	t.Run("one has no route: the next one is tried, no strike", func(t *testing.T) {
		r := twoAddresses(t)
		r.engine.onOpen = func(a netip.AddrPort) error {
			if a.Addr() == netip.MustParseAddr("192.0.2.1") {
				return errNoRoute
			}
			return nil
		}
		r.deliver(1, new(udpClient), "a")
		r.engine.wants(t, "open 192.0.2.1:53: "+errNoRoute.Error(), "1 open 192.0.2.2:53", "1 < a")
		r.wantStrikes("a.example:53", 0, upstream.Up)
	})
	t.Run("all refuse: one strike, and all are tried again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := twoAddresses(t)
			r.deliver(1, new(udpClient), "a")
			r.engine.socket(1).sink.Failed(errRefused)
			r.engine.socket(2).sink.Failed(errRefused)
			synctest.Wait() // for the new lookup
			r.wantStrikes("a.example:53", 1, upstream.Struck)
			r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 close", "2 open 192.0.2.2:53", "2 < a", "2 close", "3 open 192.0.2.1:53", "3 < a")
		})
	})
	t.Run("none has a route: the next backend is tried, no strike", func(t *testing.T) {
		r := twoAddresses(t)
		r.engine.onOpen = func(a netip.AddrPort) error {
			if a.Addr() != netip.MustParseAddr("192.0.2.9") {
				return errNoRoute
			}
			return nil
		}
		r.deliver(1, new(udpClient), "a")
		r.engine.wants(t, "open 192.0.2.1:53: "+errNoRoute.Error(), "open 192.0.2.2:53: "+errNoRoute.Error(), "1 open 192.0.2.9:53", "1 < a")
		r.wantStrikes("a.example:53", 0, upstream.Up)
	})
	t.Run("one refuses and the other has no route: one strike", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := twoAddresses(t)
			r.deliver(1, new(udpClient), "a")
			r.engine.socket(1).sink.Failed(errRefused)
			r.engine.socket(2).sink.Failed(errNoRoute)
			synctest.Wait()
			r.wantStrikes("a.example:53", 1, upstream.Struck)
			entry := r.line("backend failed, first strike").ContextMap()
			if got, want := entry["error"], errRefused.Error()+"; "+errNoRoute.Error(); got != want {
				t.Fatalf("error %q, want %q", got, want)
			}
		})
	})
	t.Run("the address that answered is tried first for the next client", func(t *testing.T) {
		r := twoAddresses(t)
		r.deliver(1, new(udpClient), "a")
		r.engine.socket(1).sink.Failed(errRefused)
		r.engine.socket(2).answer("A")
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 close", "2 open 192.0.2.2:53", "2 < a")
		r.deliver(2, new(udpClient), "b")
		r.engine.wants(t, "3 open 192.0.2.2:53", "3 < b")
	})
	t.Run("the address that answered fails later: the other one is tried in the same attempt", func(t *testing.T) {
		r := twoAddresses(t)
		r.deliver(1, new(udpClient), "a")
		r.engine.socket(1).sink.Failed(errRefused)
		r.engine.socket(2).answer("A")
		r.deliver(1, new(udpClient), "b")
		r.engine.socket(2).sink.Failed(errRefused)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 close", "2 open 192.0.2.2:53", "2 < a", "2 < b", "2 close", "3 open 192.0.2.1:53", "3 < b")
		r.wantStrikes("a.example:53", 0, upstream.Up)
	})
	t.Run("the addresses share the reply timeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := twoAddresses(t, func(o *Options) { o.UDPReplyTimeout = 2 * time.Second })
			r.deliver(1, new(udpClient), "a")
			r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a")
			time.Sleep(time.Second)
			synctest.Wait()
			r.engine.wants(t, "1 close", "2 open 192.0.2.2:53", "2 < a")
			r.wantStrikes("a.example:53", 0, upstream.Up)
			time.Sleep(time.Second)
			synctest.Wait()
			r.wantStrikes("a.example:53", 1, upstream.Struck)
		})
	})
}
