package handler

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

func TestUDPReplyTimeout(t *testing.T) {
	replyTimeout := func(o *Options) { o.UDPReplyTimeout = time.Second }
	// pass lets time pass, to just before or after the moment meant.
	pass := func(d time.Duration) {
		time.Sleep(d)
		synctest.Wait()
	}
	bubble := func(name string, f func(t *testing.T, r *udpRig)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f(t, newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"}, replyTimeout))
			})
		})
	}

	bubble("each attempt has its own", func(t *testing.T, r *udpRig) {
		r.deliver(1, new(udpClient), "a")
		pass(999 * time.Millisecond)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a")
		pass(time.Millisecond)
		r.engine.wants(t, "1 close", "2 open 192.0.2.1:53", "2 < a")
		r.wantStrikes("192.0.2.1:53", 1, upstream.Struck)
		pass(999 * time.Millisecond)
		r.engine.wants(t)
		pass(time.Millisecond)
		r.engine.wants(t, "2 close", "3 open 192.0.2.2:53", "3 < a")
		r.wantStrikes("192.0.2.1:53", 0, upstream.Down)
	})
	bubble("does not fire when the answer came", func(t *testing.T, r *udpRig) {
		client := new(udpClient)
		r.deliver(1, client, "a")
		pass(999 * time.Millisecond)
		r.engine.socket(1).answer("A")
		pass(10 * time.Second)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a")
		r.wantLines("backend failed, first strike", 0)
	})
	bubble("runs from the first datagram since the last answer", func(t *testing.T, r *udpRig) {
		client := new(udpClient)
		r.deliver(1, client, "a")
		r.engine.socket(1).answer("A")
		pass(5 * time.Second)
		r.deliver(1, client, "b")
		pass(900 * time.Millisecond)
		r.deliver(1, client, "c") // does not put it off
		pass(99 * time.Millisecond)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 < b", "1 < c")
		pass(time.Millisecond)
		r.engine.wants(t, "1 close", "2 open 192.0.2.1:53", "2 < b", "2 < c")
	})
	bubble("a stale timer does not hit the next attempt", func(t *testing.T, r *udpRig) {
		client := new(udpClient)
		r.deliver(1, client, "a")
		pass(500 * time.Millisecond)
		r.engine.socket(1).answer("A")
		r.deliver(1, client, "b")
		r.session(1).checkReplyTimeout() // a timer of "a" that had fired and waited for the lock
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 < b")
		pass(999 * time.Millisecond)
		r.engine.wants(t)
		pass(time.Millisecond)
		r.engine.wants(t, "1 close", "2 open 192.0.2.1:53", "2 < b")
	})
	bubble("nor a session that is over", func(t *testing.T, r *udpRig) {
		r.deliver(1, new(udpClient), "a")
		s := r.session(1)
		r.service.Close()
		pass(2 * time.Second)
		s.checkReplyTimeout()
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 close")
	})
	bubble("a datagram that could not be sent is not waited for", func(t *testing.T, r *udpRig) {
		r.engine.onSend = func(*fakeSocket, []byte) error { return errTooBig }
		r.deliver(1, new(udpClient), "a")
		pass(10 * time.Second)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a: "+errTooBig.Error())
		r.wantLines("backend failed, first strike", 0)
	})
	bubble("another session's demotes the backend: the silent ones move at once", func(t *testing.T, r *udpRig) {
		r.deliver(1, new(udpClient), "a")
		pass(900 * time.Millisecond)
		r.deliver(2, new(udpClient), "b")
		pass(1100 * time.Millisecond) // now the first is through; the second has had one timeout
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "2 open 192.0.2.1:53", "2 < b",
			"1 close", "3 open 192.0.2.1:53", "3 < a",
			"2 close", "4 open 192.0.2.1:53", "4 < b",
			"3 close", "5 open 192.0.2.2:53", "5 < a",
			"4 close", "6 open 192.0.2.2:53", "6 < b")
	})
}

func TestUDPResponses(t *testing.T) {
	responses := func(n int) func(*Options) { return func(o *Options) { o.UDPResponses = n } }
	t.Run("the last answer ends the session at once", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"}, responses(2))
		client := new(udpClient)
		r.deliver(1, client, "a")
		r.engine.socket(1).answer("A1")
		r.wantSessions(1)
		r.engine.socket(1).answer("A2")
		r.wantSessions(0)
		client.wants(t, "A1", "A2")
		client.wantReleased(t, 1)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 close")
		if why := r.line("relay ended").ContextMap()["reason"]; why != "responses" {
			t.Fatalf("reason %v", why)
		}
	})
	t.Run("so many for each datagram asked", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"}, responses(1))
		client := new(udpClient)
		r.deliver(1, client, "a", "b")
		r.engine.socket(1).answer("A")
		r.wantSessions(1)
		r.engine.socket(1).answer("B")
		r.wantSessions(0)
		client.wants(t, "A", "B")
	})
	t.Run("a query during the last answer begins the next session", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"}, responses(1))
		client := new(udpClient)
		client.onReply = func(d []byte) {
			if string(d) == "A" {
				r.deliver(1, client, "b")
			}
		}
		r.deliver(1, client, "a")
		r.engine.socket(1).answer("A")
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 close", "2 open 192.0.2.1:53", "2 < b")
		r.engine.socket(2).answer("B")
		client.wants(t, "A", "B")
		r.wantSessions(0)
	})
	t.Run("a datagram nobody could send asks nothing", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"}, responses(1))
		client := new(udpClient)
		r.engine.onSend = func(_ *fakeSocket, d []byte) error {
			if string(d) == "big" {
				return errTooBig
			}
			return nil
		}
		r.deliver(1, client, "a", "big")
		r.engine.socket(1).answer("A")
		r.wantSessions(0)
	})
	t.Run("what was asked before a refusal does not count", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"192.0.2.1:53"}, responses(1))
			r.deliver(1, new(udpClient), "a")
			r.engine.socket(1).sink.Failed(errRefused)
			r.engine.socket(2).sink.Failed(errRefused)
			r.wantLines("client refused", 1)
			time.Sleep(refusedFor)
			r.deliver(1, new(udpClient), "b")
			r.engine.socket(3).answer("B")
			r.wantSessions(0)
		})
	})
}
