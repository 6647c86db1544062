package chaos

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/relaytest/lab"
)

// family holds the addresses of a lab network in one address family.
type family struct {
	backend, attacker                string // attacker is some other host
	portUnreachable, hostUnreachable lab.ICMP
}

var families = map[string]family{
	"IPv4": {"10.7.0.2", "10.7.9.9", lab.PortUnreachable4, lab.HostUnreachable4},
	"IPv6": {"fd07::2", "fd07:9::9", lab.PortUnreachable6, lab.HostUnreachable6},
}

// port returns the address of a port.
func port(host string, number uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(host), number)
}

// overFamilies runs a part of a test over each engine and address family.
func overFamilies(t *testing.T, test func(*testing.T, dgram.Engine, family)) {
	overEngines(t, func(t *testing.T, engine dgram.Engine) {
		for name, f := range families {
			t.Run(name, func(t *testing.T) { test(t, engine, f) })
		}
	})
}

// farSide is the far side of a TUN device, whose behaviour a test can change.
type farSide struct {
	*lab.TUN
	receive atomic.Pointer[func(lab.Datagram)] // handles each datagram that arrives; nil: it is lost
}

func newFarSide(t *testing.T) *farSide {
	t.Helper()
	side := new(farSide)
	side.TUN = lab.NewTUN(t, func(_ *lab.TUN, d lab.Datagram) {
		if f := side.receive.Load(); f != nil {
			(*f)(d)
		}
	}, "10.7.0.1/24", "fd07::1/64")
	return side
}

func (side *farSide) handle(f func(lab.Datagram)) { side.receive.Store(&f) }

// reply sends an answer that names the backend.
func (side *farSide) reply(d lab.Datagram) {
	side.Send(d.Answer(fmt.Appendf(nil, "%s %s", d.To.Addr(), d.Payload)))
}

// ICMP errors of other hosts do not demote a backend that answers, even if they
// arrive before its answers.
func TestForgedICMPErrorsDoNotDemote(t *testing.T) {
	if !lab.InNamespace(t) {
		return
	}
	side := newFarSide(t)
	overFamilies(t, func(t *testing.T, engine dgram.Engine, f family) {
		attacker := netip.MustParseAddr(f.attacker)
		side.handle(func(d lab.Datagram) {
			for _, e := range []lab.ICMP{f.portUnreachable, f.hostUnreachable} {
				side.Send(d.Error(attacker, e))
			}
			time.AfterFunc(time.Millisecond, func() { side.reply(d) })
		})
		s := newService(t, engine, nil, port(f.backend, 53).String(), "127.0.0.1:1")
		for n := range 20 {
			c := s.newClient()
			for i := range 5 {
				c.send(fmt.Sprint(n, i))
				c.wants(t, fmt.Sprint(f.backend, " ", n, i))
			}
		}
		s.wantNoFailures(t)
		if ignored := s.Stats(time.Now()).Ignored; ignored == 0 {
			t.Error("no ICMP error was counted")
		}
	})
}

// A port unreachable of the backend itself fails over, at once.
func TestPortUnreachableOfBackendFailsOver(t *testing.T) {
	if !lab.InNamespace(t) {
		return
	}
	side := newFarSide(t)
	standby := namedBackend(t, "standby", "127.0.0.1:0")
	overFamilies(t, func(t *testing.T, engine dgram.Engine, f family) {
		side.handle(func(d lab.Datagram) { side.Send(d.Error(d.To.Addr(), f.portUnreachable)) })
		s := newService(t, engine, nil, port(f.backend, 53).String(), standby)
		c := s.newClient()
		began := time.Now()
		c.send("a")
		c.wants(t, "standby a")
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// A router's report that a host is unreachable fails over if the host is silent.
func TestHostUnreachableOfRouterFailsOver(t *testing.T) {
	if !lab.InNamespace(t) {
		return
	}
	side := newFarSide(t)
	standby := namedBackend(t, "standby", "127.0.0.1:0")
	overFamilies(t, func(t *testing.T, engine dgram.Engine, f family) {
		router := netip.MustParseAddr(f.attacker)
		side.handle(func(d lab.Datagram) { side.Send(d.Error(router, f.hostUnreachable)) })
		s := newService(t, engine, nil, port(f.backend, 53).String(), standby)
		c := s.newClient()
		c.send("a")
		c.wants(t, "standby a")
	})
}

// A backend that is switched off fails over: the kernel reports that the neighbour
// does not answer.
func TestSwitchedOffNeighbourFailsOver(t *testing.T) {
	if !lab.InNamespace(t) {
		return
	}
	lab.DeadNeighbour(t, "10.9.0.1/24")
	standby := namedBackend(t, "standby", "127.0.0.1:0")
	overEngines(t, func(t *testing.T, engine dgram.Engine) {
		s := newService(t, engine, nil, "10.9.0.2:53", standby)
		c := s.newClient()
		began := time.Now()
		c.send("a")
		c.wants(t, "standby a")
		t.Logf("served by the standby after %v", time.Since(began).Round(100*time.Millisecond))
	})
}

// A datagram that is too large for the path is lost. The session keeps its socket
// and the backend has no strike.
func TestPacketTooBigIsOneLostDatagram(t *testing.T) {
	if !lab.InNamespace(t) {
		return
	}
	side := newFarSide(t)
	overFamilies(t, func(t *testing.T, engine dgram.Engine, f family) {
		from := make(chan netip.AddrPort, 1024)
		side.handle(func(d lab.Datagram) {
			if len(d.Payload) > 1300 {
				side.Send(d.Error(netip.MustParseAddr(f.attacker), lab.PacketTooBig(d.To.Addr().Is4(), 1300)))
				return
			}
			from <- d.From
			side.reply(d)
		})
		s := newService(t, engine, nil, port(f.backend, 53).String(), "127.0.0.1:1")
		c := s.newClient()
		c.send("a")
		c.wants(t, f.backend+" a")
		c.send(string(make([]byte, 1400)))
		for n := range 10 {
			c.send(fmt.Sprint(n))
			c.wants(t, fmt.Sprint(f.backend, " ", n))
		}
		s.wantNoFailures(t)
		first := <-from
		for len(from) > 0 {
			if port := <-from; port != first {
				t.Fatalf("datagrams came from %v and %v", first, port)
			}
		}
	})
}

// An ICMP error that arrives while many datagrams are being sent in one call is
// not lost.
func TestICMPErrorBetweenDatagramsOfOneSendIsNotLost(t *testing.T) {
	if !lab.InNamespace(t) {
		return
	}
	side := newFarSide(t)
	standby := namedBackend(t, "standby", "127.0.0.1:0")
	overEngines(t, func(t *testing.T, engine dgram.Engine) {
		// The receiving end reports an error for the first datagram of each socket only.
		failed := make(map[netip.AddrPort]bool)
		side.handle(func(d lab.Datagram) {
			if !failed[d.From] {
				failed[d.From] = true
				side.Send(d.Error(d.To.Addr(), lab.PortUnreachable4))
			}
		})
		s := newService(t, engine, nil, "10.7.0.2:53", standby)
		for range 30 {
			c := s.newClient()
			var list [][]byte
			for n := range 64 { // of different sizes, so that GSO cannot send them as one
				list = append(list, make([]byte, 10+n))
			}
			s.relay.Deliver(c.key, list, c)
			relaytest.Receive(t, "an answer of the standby", c.got)
		}
	})
}

// While a firewall rejects what this machine sends, established sessions lose
// datagrams, but not their backend.
func TestRejectedSendsAreLostDatagrams(t *testing.T) {
	if !lab.InNamespace(t) {
		return
	}
	side := newFarSide(t)
	side.handle(side.reply)
	standby := namedBackend(t, "standby", "127.0.0.1:0")
	overEngines(t, func(t *testing.T, engine dgram.Engine) {
		s := newService(t, engine, nil, "10.7.0.2:53", standby)
		c := s.newClient()
		c.send("before")
		c.wants(t, "10.7.0.2 before")
		restore := lab.RejectSends(t, "10.7.0.2")
		for until := time.Now().Add(300 * time.Millisecond); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
			c.send("lost")
		}
		restore()
		c.send("after")
		c.wants(t, "10.7.0.2 after")
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
	side := newFarSide(t)
	side.handle(side.reply)
	standby := namedBackend(t, "standby", "127.0.0.1:0")
	overEngines(t, func(t *testing.T, engine dgram.Engine) {
		s := newService(t, engine, func(o *handler.Options) { o.ConnectTimeout = time.Second }, "10.7.0.2:53", standby)
		c := s.newClient()
		c.send("before")
		c.wants(t, "10.7.0.2 before")
		defer lab.RejectSends(t, "10.7.0.2")()
		relaytest.Eventually(t, "the standby", func() bool {
			c.send("a")
			time.Sleep(20 * time.Millisecond)
			return len(c.got) > 0
		})
		c.wants(t, "standby a")
	})
}
