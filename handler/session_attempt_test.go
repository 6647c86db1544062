package handler

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/async-relay/caddy-relay/upstream"
)

func TestUDPStrikes(t *testing.T) {
	t.Run("first strike: same backend, new lookup, new socket", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"a.example:53", "192.0.2.9:53"})
			r.resolver.setCached("a.example", "192.0.2.1")
			client := new(udpClient)
			r.deliver(1, client, "a", "b")
			r.resolver.set("a.example", addrsAnswer("192.0.2.2")) // its address has changed
			r.engine.socket(1).sink.Failed(errRefused)
			synctest.Wait()
			r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 < b", "1 close", "2 open 192.0.2.2:53", "2 < a", "2 < b")
			if q := r.resolver.callsFor("a.example"); len(q) != 1 || q[0].method != "refresh" {
				t.Fatalf("lookups %v, want one refresh", q)
			}
			r.wantStrikes("a.example:53", 1, upstream.Struck)
			r.engine.socket(2).answer("A")
			client.wants(t, "A")
			r.wantStrikes("a.example:53", 0, upstream.Up)
		})
	})
	t.Run("second strike: next backend, datagrams sent again in order", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"})
		client := new(udpClient)
		r.deliver(1, client, "a", "b")
		r.engine.socket(1).sink.Failed(errRefused)
		r.deliver(1, client, "c")
		r.engine.socket(2).sink.Failed(errRefused)
		r.deliver(1, client, "d")
		r.engine.wants(t,
			"1 open 192.0.2.1:53", "1 < a", "1 < b", "1 close",
			"2 open 192.0.2.1:53", "2 < a", "2 < b", "2 < c", "2 close",
			"3 open 192.0.2.2:53", "3 < a", "3 < b", "3 < c", "3 < d")
		r.wantStrikes("192.0.2.1:53", 0, upstream.Down)
		r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 1, "backend order changed", 1)
		r.engine.socket(3).answer("A")
		client.wants(t, "A")
	})
	t.Run("an open socket is not a success", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		r.deliver(1, new(udpClient), "a")
		r.engine.socket(1).sink.Failed(errRefused)
		r.deliver(2, new(udpClient), "b") // opens another socket
		r.wantStrikes("192.0.2.1:53", 1, upstream.Struck)
		r.engine.socket(2).sink.Failed(errRefused)
		r.wantStrikes("192.0.2.1:53", 0, upstream.Down)
	})
	t.Run("100 sessions that fail together cause two strikes and one move", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"})
			for i := range 100 {
				r.deliver(i, new(udpClient), "a")
			}
			for i := range 100 {
				r.engine.socket(i + 1).sink.Failed(errRefused)
			}
			for i := range 100 {
				r.engine.socket(i + 101).sink.Failed(errRefused)
				synctest.Wait()
			}
			r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 1)
			for i := range 100 {
				if got := r.session(i).attempt.Backend.Text; got != "192.0.2.2:53" {
					t.Fatalf("session %d is on %s", i, got)
				}
			}
		})
	})
}

func TestUDPFailureOfEstablishedSession(t *testing.T) {
	established := func(t *testing.T) (*udpRig, *udpClient) {
		r := newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"})
		client := new(udpClient)
		r.deliver(1, client, "a")
		r.engine.socket(1).answer("A")
		client.wants(t, "A")
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a")
		return r, client
	}
	t.Run("unanswered datagrams are sent to the next backend", func(t *testing.T) {
		r, client := established(t)
		r.deliver(1, client, "b", "c")
		r.engine.socket(1).sink.Failed(errRefused)
		r.engine.socket(2).sink.Failed(errRefused)
		r.engine.wants(t, "1 < b", "1 < c", "1 close",
			"2 open 192.0.2.1:53", "2 < b", "2 < c", "2 close",
			"3 open 192.0.2.2:53", "3 < b", "3 < c")
		r.engine.socket(3).answer("B")
		client.wants(t, "B")
	})
	t.Run("a late ICMP error is ignored if no datagram is unanswered", func(t *testing.T) {
		r, client := established(t)
		r.engine.socket(1).sink.Failed(errRefused)
		r.engine.wants(t)
		r.wantStrikes("192.0.2.1:53", 0, upstream.Up)
		r.deliver(1, client, "b")
		r.engine.wants(t, "1 < b")
	})
	t.Run("a late ICMP error that a send returns is no strike, and the datagram is sent again", func(t *testing.T) {
		r, client := established(t)
		failures := 1
		r.engine.onSend = func(*fakeSocket, []byte) error {
			if failures--; failures == 0 {
				return errRefused
			}
			return nil
		}
		r.deliver(1, client, "b")
		r.engine.wants(t, "1 < b: "+errRefused.Error(), "1 < b")
		r.wantStrikes("192.0.2.1:53", 0, upstream.Up)
	})
	t.Run("a send that fails because of an unanswered datagram did not send", func(t *testing.T) {
		r, client := established(t)
		r.deliver(1, client, "b")
		r.engine.onSend = func(s *fakeSocket, d []byte) error {
			if s.number == 1 {
				return errRefused
			}
			return nil
		}
		r.deliver(1, client, "c")
		r.engine.wants(t, "1 < b", "1 < c: "+errRefused.Error(), "1 close", "2 open 192.0.2.1:53", "2 < b", "2 < c")
		r.wantStrikes("192.0.2.1:53", 1, upstream.Struck)
	})
	t.Run("a backend can be tried again after an answer of another one", func(t *testing.T) {
		r, client := established(t)
		r.deliver(1, client, "b")
		r.engine.socket(1).sink.Failed(errRefused)
		r.engine.socket(2).sink.Failed(errRefused)
		r.engine.socket(3).answer("B") // the second backend
		r.deliver(1, client, "c")
		r.engine.socket(3).sink.Failed(errRefused)
		r.engine.socket(4).sink.Failed(errRefused)
		r.engine.socket(5).answer("C") // the first backend, which was demoted
		client.wants(t, "B", "C")
		if got := r.engine.socket(5).addr.String(); got != "192.0.2.1:53" {
			t.Fatalf("served by %s", got)
		}
		r.wantLines("client refused", 0, "backend recovered", 1)
	})
}

func TestUDPResend(t *testing.T) {
	t.Run("the last 16, not older ones", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		for i := range 40 {
			r.deliver(1, new(udpClient), fmt.Sprint(i))
		}
		r.engine.lines = nil
		r.engine.socket(1).sink.Failed(errRefused)
		want := []string{"1 close", "2 open 192.0.2.1:53"}
		for i := 24; i < 40; i++ {
			want = append(want, fmt.Sprintf("2 < %d", i))
		}
		r.engine.wants(t, want...)
	})
	t.Run("the last 64 KiB, not older ones", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		var sent []string
		r.engine.onSend = func(s *fakeSocket, d []byte) error { sent = append(sent, string(d[:1])); return nil }
		big := make([]byte, 20<<10)
		for i := range 6 {
			big[0] = byte('a' + i)
			r.deliver(1, new(udpClient), string(big))
		}
		r.engine.socket(1).sink.Failed(errRefused)
		if got := fmt.Sprint(sent); got != "[a b c d e f d e f]" {
			t.Fatal(got)
		}
	})
	t.Run("no answered ones", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		r.deliver(1, new(udpClient), "a")
		r.engine.socket(1).answer("A")
		r.deliver(1, new(udpClient), "b")
		r.engine.socket(1).sink.Failed(errRefused)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 < b", "1 close", "2 open 192.0.2.1:53", "2 < b")
	})
}

func TestUDPDemotionByOthers(t *testing.T) {
	t.Run("sessions that wait for an answer move on at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"})
			r.deliver(1, new(udpClient), "a")
			waiting := new(udpClient)
			r.deliver(2, waiting, "b")
			r.engine.socket(1).sink.Failed(errRefused)
			r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "2 open 192.0.2.1:53", "2 < b", "1 close", "3 open 192.0.2.1:53", "3 < a")
			r.engine.socket(3).sink.Failed(errRefused) // the second strike
			synctest.Wait()
			r.engine.wants(t, "3 close", "4 open 192.0.2.2:53", "4 < a", "2 close", "5 open 192.0.2.2:53", "5 < b")
			r.engine.socket(5).answer("B")
			waiting.wants(t, "B")
		})
	})
	t.Run("sessions that wait for the lookup move on at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"a.example:53", "192.0.2.2:53"})
			r.resolver.set("a.example", hangAnswer)
			r.deliver(2, new(udpClient), "b") // waits for the lookup
			synctest.Wait()
			r.resolver.setCached("a.example", "192.0.2.1")
			r.deliver(1, new(udpClient), "a")
			r.engine.socket(1).sink.Failed(errRefused)
			synctest.Wait()
			r.engine.socket(2).sink.Failed(errRefused)
			synctest.Wait()
			if got := r.session(2).attempt.Backend.Text; got != "192.0.2.2:53" {
				t.Fatalf("still on %s", got)
			}
		})
	})
	t.Run("sessions that do not wait stay with the backend", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"})
			served := new(udpClient)
			r.deliver(2, served, "b")
			r.engine.socket(1).answer("B")
			r.deliver(1, new(udpClient), "a")
			r.engine.socket(2).sink.Failed(errRefused)
			r.engine.socket(3).sink.Failed(errRefused)
			synctest.Wait()
			r.deliver(2, served, "c")
			r.engine.socket(1).answer("C")
			served.wants(t, "B", "C")
		})
	})
}
