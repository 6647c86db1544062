package handler

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

func TestUDPSession(t *testing.T) {
	t.Run("has one socket and keeps the order", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		client := new(udpClient)
		r.deliver(1, client, "a", "", "b")
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 < ", "1 < b")
		r.engine.socket(1).answer("A")
		r.engine.socket(1).answer("")
		r.engine.socket(1).answer("B")
		client.wants(t, "A", "", "B")
		r.deliver(1, client, "c")
		r.engine.wants(t, "1 < c")
	})
	t.Run("is keyed by client and local address", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		one, two := new(udpClient), new(udpClient)
		key := udpKey(1)
		r.relay.Deliver(key, [][]byte{[]byte("a")}, one)
		key.Local = netip.MustParseAddrPort("203.0.113.2:53")
		r.relay.Deliver(key, [][]byte{[]byte("b")}, two)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "2 open 192.0.2.1:53", "2 < b")
		r.wantSessions(2)
		r.engine.socket(2).answer("B")
		r.engine.socket(1).answer("A")
		one.wants(t, "A")
		two.wants(t, "B")
	})
	t.Run("a datagram may be overwritten after Deliver", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"})
		buf := []byte("a")
		r.relay.Deliver(udpKey(1), [][]byte{buf}, new(udpClient))
		buf[0] = 'x'
		r.engine.socket(1).sink.Failed(errRefused)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 close", "2 open 192.0.2.1:53", "2 < a")
	})
	t.Run("ignores what arrives on an earlier socket", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"})
		client := new(udpClient)
		r.deliver(1, client, "a")
		r.engine.socket(1).sink.Failed(errRefused)
		r.engine.socket(1).answer("late")
		r.engine.socket(1).sink.Failed(errRefused)
		client.wants(t)
		r.wantStrikes("192.0.2.1:53", 1, "struck")
	})
}

func TestUDPReplier(t *testing.T) {
	t.Run("the latest gets the answers, the earlier one is released", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		one, two := new(udpClient), new(udpClient)
		r.deliver(1, one, "a", "b")
		r.engine.socket(1).answer("A")
		one.wantReleased(t, 0)
		r.deliver(1, two, "c", "d")
		one.wantReleased(t, 1)
		r.engine.socket(1).answer("B")
		one.wants(t, "A")
		two.wants(t, "B")
		two.wantReleased(t, 0)
		r.service.Close()
		one.wantReleased(t, 1)
		two.wantReleased(t, 1)
	})
	t.Run("is released after its last reply, not during it", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		began, finish, done := make(chan bool), make(chan bool), make(chan bool)
		client := &udpClient{onReply: func([]byte) { began <- true; <-finish }}
		r.deliver(1, client, "a")
		go func() { r.engine.socket(1).answer("A"); close(done) }()
		relaytest.Receive(t, "reply", began)
		r.service.Close()
		client.wantReleased(t, 0)
		close(finish)
		relaytest.Receive(t, "end of reply", done)
		client.wants(t, "A")
		client.wantReleased(t, 1)
	})
	t.Run("is released without a lock held", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		again := new(udpClient)
		client := &udpClient{onRelease: func() { r.deliver(1, again, "b") }} // deadlocks if a lock is held
		r.deliver(1, client, "a")
		r.session(1).end(evictedForRoom)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 close", "2 open 192.0.2.1:53", "2 < b")
	})
	t.Run("does not wait for the Replier of another client", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		hang, done := make(chan bool), make(chan bool)
		slow, quick := &udpClient{onReply: func([]byte) { <-hang }}, new(udpClient)
		r.deliver(1, slow, "a")
		r.deliver(2, quick, "b")
		go func() { r.engine.socket(1).answer("A"); close(done) }()
		r.engine.socket(2).answer("B")
		r.deliver(1, slow, "c") // datagrams of the same client do not wait either
		quick.wants(t, "B")
		close(hang)
		relaytest.Receive(t, "slow reply", done)
	})
}

func TestUDPLookup(t *testing.T) {
	t.Run("does not delay Deliver", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"hangs.example:53"})
			r.resolver.set("hangs.example", hangAnswer)
			r.deliver(1, new(udpClient), "a", "b") // returns
			synctest.Wait()
			r.engine.wants(t)
			other := newUDPRig(t, []string{"quick.example:53"})
			other.resolver.setCached("quick.example", "192.0.2.1")
			other.deliver(1, new(udpClient), "c")
			other.engine.wants(t, "1 open 192.0.2.1:53", "1 < c")
		})
	})
	t.Run("that hangs for one session does not delay another of the service", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"hangs.example:53"})
			r.resolver.set("hangs.example", hangAnswer)
			r.deliver(1, new(udpClient), "a")
			synctest.Wait()
			r.resolver.setCached("hangs.example", "192.0.2.1") // as if another lookup had succeeded
			client := new(udpClient)
			r.deliver(2, client, "b")
			r.engine.wants(t, "1 open 192.0.2.1:53", "1 < b")
			r.engine.socket(1).answer("B")
			client.wants(t, "B")
		})
	})
	t.Run("queues datagrams and sends them in order", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"a.example:53"})
			r.resolver.set("a.example", addrsAnswer("192.0.2.1"))
			want := []string{"1 open 192.0.2.1:53"}
			for i := range 20 {
				r.deliver(1, new(udpClient), fmt.Sprint(i))
				want = append(want, fmt.Sprintf("1 < %d", i))
			}
			synctest.Wait()
			r.engine.wants(t, want...)
			if n := len(r.resolver.callsFor("a.example")); n != 1 {
				t.Fatalf("%d lookups, want 1", n)
			}
		})
	})
	t.Run("ends with its session", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"hangs.example:53"})
			r.resolver.set("hangs.example", hangAnswer)
			r.deliver(1, new(udpClient), "a")
			synctest.Wait()
			r.service.Close() // a goroutine that does not end would deadlock the bubble
			r.wantSessions(0)
		})
	})
	t.Run("that fails is a failed attempt", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"none.example:53", "192.0.2.2:53"})
			r.deliver(1, new(udpClient), "a")
			synctest.Wait()
			r.engine.wants(t, "1 open 192.0.2.2:53", "1 < a")
			r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 1)
		})
	})
}

func TestUDPClose(t *testing.T) {
	r := newUDPRig(t, []string{"192.0.2.1:53"})
	clients := make([]udpClient, 10)
	for i := range clients {
		r.deliver(i, &clients[i], "a")
	}
	r.wantSessions(len(clients))
	r.service.Close()
	r.wantSessions(0)
	for i := range clients {
		clients[i].wantReleased(t, 1)
	}
	if open, _ := r.engine.sockets(); open != 0 {
		t.Fatalf("%d sockets left open", open)
	}
	late := new(udpClient)
	r.deliver(1, late, "b")
	late.wantReleased(t, 1)
	r.wantSessions(0)
	r.service.Close() // closing again does nothing
}

func TestUDPQueue(t *testing.T) {
	t.Run("holds 64 datagrams; further ones are dropped and counted", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"a.example:53"})
			found := make(chan bool)
			r.resolver.set("a.example", waitAnswer(found, "192.0.2.1"))
			want := []string{"1 open 192.0.2.1:53"}
			for i := range 70 {
				r.deliver(1, new(udpClient), fmt.Sprint(i))
				if i < 64 {
					want = append(want, fmt.Sprintf("1 < %d", i))
				}
			}
			if got := r.service.floods.total(queueFull); got != 6 {
				t.Fatalf("%d counted, want 6", got)
			}
			close(found)
			synctest.Wait()
			r.deliver(1, new(udpClient), "after")
			r.engine.wants(t, append(want, "1 < after")...)
		})
	})
	t.Run("holds 1 MiB", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"a.example:53"})
			r.resolver.set("a.example", hangAnswer)
			big := strings.Repeat("x", 60_000)
			for range 30 {
				r.deliver(1, new(udpClient), big)
			}
			if got := r.service.floods.total(queueFull); got != 30-(1<<20)/60_000 {
				t.Fatalf("%d counted", got)
			}
		})
	})
}
