package handler

import (
	"testing"
	"testing/synctest"
	"time"
)

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
	t.Run("the limit counts for each datagram from the client", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"}, responses(1))
		client := new(udpClient)
		r.deliver(1, client, "a", "b")
		r.engine.socket(1).answer("A")
		r.wantSessions(1)
		r.engine.socket(1).answer("B")
		r.wantSessions(0)
		client.wants(t, "A", "B")
	})
	t.Run("a datagram during the last answer starts the next session", func(t *testing.T) {
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
	t.Run("a datagram that could not be sent does not count", func(t *testing.T) {
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
	t.Run("datagrams before a refusal do not count", func(t *testing.T) {
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
