package handler

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

func TestUDPReplyTimeout(t *testing.T) {
	replyTimeout := func(o *Options) { o.UDPReplyTimeout = time.Second }
	// pass advances the time.
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

	bubble("each attempt has its own timeout", func(t *testing.T, r *udpRig) {
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
	bubble("a late timer leaves time to receive the answer", func(t *testing.T, r *udpRig) {
		late := func(n int) {
			s := r.session(n)
			s.lock()
			s.waitingSince = s.waitingSince.Add(-time.Second - lateTimer)
			s.unlock()
			s.checkReplyTimeout()
		}
		r.deliver(1, new(udpClient), "a")
		late(1)
		pass(catchUp / 2)
		r.engine.socket(1).answer("A")
		pass(10 * time.Second)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a")
		r.wantLines("backend failed, first strike", 0)

		r.deliver(2, new(udpClient), "b")
		late(2)
		pass(catchUp - time.Millisecond)
		r.engine.wants(t, "2 open 192.0.2.1:53", "2 < b")
		pass(time.Millisecond)
		r.wantStrikes("192.0.2.1:53", 1, upstream.Struck)
	})
	bubble("does not fire after an answer", func(t *testing.T, r *udpRig) {
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
		r.deliver(1, client, "c") // does not extend the timeout
		pass(99 * time.Millisecond)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 < b", "1 < c")
		pass(time.Millisecond)
		r.engine.wants(t, "1 close", "2 open 192.0.2.1:53", "2 < b", "2 < c")
	})
	bubble("a late timer does not affect the next attempt", func(t *testing.T, r *udpRig) {
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
	bubble("a late timer does not affect a session that has ended", func(t *testing.T, r *udpRig) {
		r.deliver(1, new(udpClient), "a")
		s := r.session(1)
		r.service.Close()
		pass(2 * time.Second)
		s.checkReplyTimeout()
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 close")
	})
	bubble("does not run for a datagram that could not be sent", func(t *testing.T, r *udpRig) {
		r.engine.onSend = func(*fakeSocket, []byte) error { return errTooBig }
		r.deliver(1, new(udpClient), "a")
		pass(10 * time.Second)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a: "+errTooBig.Error())
		r.wantLines("backend failed, first strike", 0)
	})
	bubble("another session demotes the backend: sessions that wait move on at once", func(t *testing.T, r *udpRig) {
		r.deliver(1, new(udpClient), "a")
		pass(900 * time.Millisecond)
		r.deliver(2, new(udpClient), "b")
		pass(1100 * time.Millisecond) // the first session has had two timeouts, the second one
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "2 open 192.0.2.1:53", "2 < b",
			"1 close", "3 open 192.0.2.1:53", "3 < a",
			"2 close", "4 open 192.0.2.1:53", "4 < b",
			"3 close", "5 open 192.0.2.2:53", "5 < a",
			"4 close", "6 open 192.0.2.2:53", "6 < b")
	})
}
