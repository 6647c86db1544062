package handler

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

func TestUDPRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"})
		dead := true
		r.engine.onOpen = func(netip.AddrPort) error {
			if dead {
				return errRefused
			}
			return nil
		}
		client := new(udpClient)
		r.deliver(1, client, "a")
		r.engine.wants(t,
			"open 192.0.2.1:53: "+errRefused.Error(), "open 192.0.2.1:53: "+errRefused.Error(),
			"open 192.0.2.2:53: "+errRefused.Error(), "open 192.0.2.2:53: "+errRefused.Error())
		entry := r.line("client refused").ContextMap()
		if want := "backend 192.0.2.2:53: " + errRefused.Error(); entry["error"] != want {
			t.Fatalf("error %q, want %q", entry["error"], want)
		}
		r.wantLines("all backends unavailable", 1)

		dead = false
		time.Sleep(refusedFor - time.Nanosecond)
		r.deliver(1, client, "dropped")
		r.engine.wants(t)
		time.Sleep(time.Nanosecond)
		r.deliver(1, client, "b")
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < b")
		r.engine.socket(1).answer("B")
		client.wants(t, "B")
		r.wantLines("backend recovered", 1)
		r.wantSessions(1)
		client.wantReleased(t, 0)
	})
}

func TestUDPRefusedLogsOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		r.engine.onOpen = func(netip.AddrPort) error { return errRefused }
		for i := range 100 {
			r.deliver(i, new(udpClient), "a")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		var counts []any
		for _, line := range r.lines("client refused") {
			counts = append(counts, line.ContextMap()["count"])
		}
		if got := fmt.Sprint(counts); got != "[1 99]" {
			t.Fatalf("counts %s, want [1 99]", got)
		}
	})
}

func TestUDPDownBackend(t *testing.T) {
	t.Run("gets one attempt per client, and no further strikes", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		r.demote("192.0.2.1:53", upstream.UDP)
		r.deliver(1, new(udpClient), "a")
		r.engine.socket(1).sink.Failed(errRefused)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 close")
		r.wantLines("client refused", 1, "backend failed, first strike", 0, "backend failed, second strike", 0)
		if s := r.status("192.0.2.1:53", upstream.UDP); s.Demotions != 1 || s.Strikes != 0 {
			t.Fatalf("%+v", s)
		}
	})
	t.Run("gets a second attempt if its addresses changed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"a.example:53"})
			r.demote("a.example:53", upstream.UDP)
			r.resolver.setCached("a.example", "192.0.2.1")
			r.deliver(1, new(udpClient), "a")
			r.resolver.set("a.example", addrsAnswer("192.0.2.2"))
			r.engine.socket(1).sink.Failed(errRefused)
			synctest.Wait()
			r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 close", "2 open 192.0.2.2:53", "2 < a")
		})
	})
	t.Run("gets no second attempt if its addresses did not change", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"a.example:53"})
			r.demote("a.example:53", upstream.UDP)
			r.resolver.setCached("a.example", "192.0.2.1")
			r.deliver(1, new(udpClient), "a")
			r.engine.socket(1).sink.Failed(errRefused)
			synctest.Wait()
			r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 close")
			if q := r.resolver.callsFor("a.example"); len(q) != 1 || q[0].method != "refresh" {
				t.Fatalf("lookups %v, want one refresh", q)
			}
		})
	})
	t.Run("recovers with its first answer", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		r.demote("192.0.2.1:53", upstream.UDP)
		r.deliver(1, new(udpClient), "a", "b")
		r.wantLines("backend recovered", 0)
		r.engine.socket(1).answer("A")
		r.engine.socket(1).answer("B")
		r.wantLines("backend recovered", 1)
	})
	t.Run("is not tried while it is drained", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		r.drainAll()
		r.deliver(1, new(udpClient), "a")
		r.engine.wants(t)
		if got := r.line("client refused").ContextMap()["error"]; got != errNoBackend.Error() {
			t.Fatalf("error %q", got)
		}
	})
}
