package chaos

import (
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/relaytest/lab"
)

// While a firewall rejects what this machine sends, established sessions lose
// datagrams, but not their backend.
func TestRejectedSendsAreLostDatagrams(t *testing.T) {
	if !lab.InNamespace(t) {
		return
	}
	for _, addr := range []string{"192.0.2.1", "2001:db8::1"} { // skips the test without a firewall
		lab.RejectSends(t, addr)()
	}
	side := newFarSide(t)
	overFamilies(t, func(t *testing.T, engine dgram.Engine, f family) {
		standby := namedBackend(t, "standby", "127.0.0.1:0")
		backend := side.host(f.ipv4, side.reply)
		s := newService(t, engine, nil, backend, standby)
		c := s.newClient()
		c.send("before")
		c.wants(t, backend+" before")
		restore := lab.RejectSends(t, hostOf(backend))
		for until := time.Now().Add(200 * time.Millisecond); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
			c.send("lost")
		}
		restore()
		c.send("after")
		c.wants(t, backend+" after")
		s.wantNoFailures(t)
		if dropped := s.Stats(time.Now()).Dropped[handler.DroppedRefused]; dropped == 0 {
			t.Error("no dropped datagram was counted")
		}
	})
}

// A session that is rejected for longer than connect_timeout moves to the next
// backend.
func TestLastingRejectionMovesSession(t *testing.T) {
	if !lab.InNamespace(t) {
		return
	}
	for _, addr := range []string{"192.0.2.1", "2001:db8::1"} { // skips the test without a firewall
		lab.RejectSends(t, addr)()
	}
	side := newFarSide(t)
	overFamilies(t, func(t *testing.T, engine dgram.Engine, f family) {
		standby := namedBackend(t, "standby", "127.0.0.1:0")
		backend := side.host(f.ipv4, side.reply)
		s := newService(t, engine, func(o *handler.Options) { o.ConnectTimeout = 500 * time.Millisecond }, backend, standby)
		c := s.newClient()
		c.send("before")
		c.wants(t, backend+" before")
		defer lab.RejectSends(t, hostOf(backend))()
		relaytest.Eventually(t, "the standby", func() bool {
			c.send("a")
			time.Sleep(20 * time.Millisecond)
			return len(c.got) > 0
		})
		c.wants(t, "standby a")
	})
}
