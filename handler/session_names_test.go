package handler

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/async-relay/caddy-relay/upstream"
)

func newNameRig(t *testing.T) *udpRig {
	r := newUDPRig(t, []string{"a.example:53", "192.0.2.9:53"})
	r.resolver.setCached("a.example", "192.0.2.1")
	return r
}

// changeName gives a.example other addresses, as the cache does.
func changeName(r *udpRig, addrs ...string) {
	r.resolver.setCached("a.example", addrs...)
	r.service.NameResolved("a.example", addrsOf(addrs...))
}

// A session leaves an address that its backend's name has lost: at once with what
// is unanswered, or else with its next datagram.
func TestSessionFollowsName(t *testing.T) {
	t.Run("unanswered", func(t *testing.T) {
		r := newNameRig(t)
		client := new(udpClient)
		r.deliver(1, client, "a", "b")
		changeName(r, "192.0.2.2")
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 < b", "1 close", "2 open 192.0.2.2:53", "2 < a", "2 < b")
		r.engine.socket(2).answer("A")
		client.wants(t, "A")
		r.wantStrikes("a.example:53", 0, upstream.Up)
	})
	t.Run("answered", func(t *testing.T) {
		r := newNameRig(t)
		client := new(udpClient)
		r.deliver(1, client, "a")
		r.engine.socket(1).answer("A")
		changeName(r, "192.0.2.2", "192.0.2.3")
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a")
		r.deliver(1, client, "b")
		r.engine.wants(t, "1 close", "2 open 192.0.2.2:53", "2 < b")
		r.engine.socket(2).answer("B")
		client.wants(t, "A", "B")
		r.deliver(1, client, "c")
		r.engine.wants(t, "2 < c")
	})
	t.Run("without answers, for ever", func(t *testing.T) {
		r := newNameRig(t)
		client := new(udpClient)
		for range 3 {
			r.deliver(1, client, "line")
		}
		changeName(r, "192.0.2.2")
		r.deliver(1, client, "last")
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < line", "1 < line", "1 < line", "1 close",
			"2 open 192.0.2.2:53", "2 < line", "2 < line", "2 < line", "2 < last")
	})
}

// A session stays where it is if the name keeps its address, also if it had lost it
// in between, and for another name.
func TestSessionStaysOnAddressOfName(t *testing.T) {
	r := newNameRig(t)
	client := new(udpClient)
	r.deliver(1, client, "a")
	r.engine.socket(1).answer("A")
	r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a")
	changeName(r, "192.0.2.2", "192.0.2.1")
	r.service.NameResolved("b.example", addrsOf("192.0.2.7"))
	changeName(r, "192.0.2.2")
	changeName(r, "192.0.2.1")
	r.deliver(1, client, "b")
	r.engine.wants(t, "1 < b")
}

// A session that waits for a lookup while the name changes opens its socket to a
// current address.
func TestSessionOpensCurrentAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newUDPRig(t, []string{"a.example:53"})
		found := make(chan bool)
		r.resolver.set("a.example", waitAnswer(found, "192.0.2.1"))
		r.deliver(1, new(udpClient), "a")
		synctest.Wait()
		changeName(r, "192.0.2.2")
		close(found)
		synctest.Wait()
		r.engine.wants(t, "1 open 192.0.2.2:53", "1 < a")
	})
}

func TestUsedByUDP(t *testing.T) {
	r := newNameRig(t)
	if got := r.service.UsedByUDP(); len(got) > 0 {
		t.Errorf("names %v without sessions", got)
	}
	r.deliver(1, new(udpClient), "a")
	if got := r.service.UsedByUDP(); !slices.Equal(got, []string{"a.example"}) {
		t.Errorf("names %v", got)
	}
}
