package chaos

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/relaytest/lab"
)

// ICMP errors of other hosts do not demote a backend that answers, even if they
// arrive before its answers.
func TestForgedICMPErrorsDoNotDemote(t *testing.T) {
	if !lab.InNamespace(t) {
		return
	}
	side := newFarSide(t)
	overFamilies(t, func(t *testing.T, engine dgram.Engine, f family) {
		backend := side.host(f.ipv4, func(d lab.Datagram) {
			for _, e := range []lab.ICMP{f.portUnreachable, f.hostUnreachable} {
				side.Send(d.Error(f.attacker, e))
			}
			time.AfterFunc(time.Millisecond, func() { side.reply(d) })
		})
		s := newService(t, engine, nil, backend, "127.0.0.1:1")
		for n := range 20 {
			c := s.newClient()
			for i := range 5 {
				c.send(fmt.Sprint(n, i))
				c.wants(t, fmt.Sprint(backend, " ", n, i))
			}
		}
		s.wantNoFailures(t)
		if ignored := s.Stats(time.Now()).Ignored; ignored == 0 {
			t.Error("no ICMP error was counted")
		}
	})
}

// A flood of forged ICMP errors costs neither the backend a strike nor the
// client an answer, although the sends of the session fail with such errors again
// and again.
func TestFloodOfForgedICMPErrorsDoesNotDemote(t *testing.T) {
	if !lab.InNamespace(t) {
		return
	}
	side := newFarSide(t)
	overFamilies(t, func(t *testing.T, engine dgram.Engine, f family) {
		var forged atomic.Pointer[[]byte]
		backend := side.host(f.ipv4, func(d lab.Datagram) {
			if forged.Load() == nil {
				packet := d.Error(f.attacker, f.portUnreachable)
				forged.Store(&packet)
			}
			side.reply(d)
		})
		s := newService(t, engine, nil, backend, "127.0.0.1:1")
		c := s.newClient()
		c.send("first")
		c.wants(t, backend+" first")
		var stop atomic.Bool
		var attack sync.WaitGroup
		defer attack.Wait()
		defer stop.Store(true)
		attack.Go(func() {
			for !stop.Load() {
				for range 100 {
					side.Send(*forged.Load())
				}
				time.Sleep(time.Millisecond)
			}
		})
		for n := range 300 {
			relaytest.Eventually(t, "an answer", func() bool { // the flood may fill the socket's buffer
				c.send(fmt.Sprint(n))
				select {
				case <-c.got:
					return true
				case <-time.After(50 * time.Millisecond):
					return false
				}
			})
		}
		s.wantNoFailures(t)
	})
}

// A port unreachable of the backend itself fails over, at once.
func TestPortUnreachableOfBackendFailsOver(t *testing.T) {
	if !lab.InNamespace(t) {
		return
	}
	side := newFarSide(t)
	overFamilies(t, func(t *testing.T, engine dgram.Engine, f family) {
		standby := namedBackend(t, "standby", "127.0.0.1:0")
		backend := side.host(f.ipv4, func(d lab.Datagram) { side.Send(d.Error(d.To.Addr(), f.portUnreachable)) })
		s := newService(t, engine, nil, backend, standby)
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
	overFamilies(t, func(t *testing.T, engine dgram.Engine, f family) {
		standby := namedBackend(t, "standby", "127.0.0.1:0")
		backend := side.host(f.ipv4, func(d lab.Datagram) { side.Send(d.Error(f.attacker, f.hostUnreachable)) })
		s := newService(t, engine, nil, backend, standby)
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
	lab.DeadNeighbour(t, "10.9.0.1/24", "fd09::1/64")
	overFamilies(t, func(t *testing.T, engine dgram.Engine, f family) {
		standby := namedBackend(t, "standby", "127.0.0.1:0")
		backend := "10.9.0.2:53"
		if !f.ipv4 {
			backend = "[fd09::2]:53"
		}
		s := newService(t, engine, nil, backend, standby)
		c := s.newClient()
		began := time.Now()
		relaytest.Eventually(t, "the standby", func() bool {
			c.send("a") // IPv6 loses what is sent to a device shortly after it is set up
			time.Sleep(20 * time.Millisecond)
			return len(c.got) > 0
		})
		c.wants(t, "standby a")
		t.Logf("served by the standby after %v", time.Since(began).Round(100*time.Millisecond))
	})
}

// A datagram that is lost on its way has no other effect: the session keeps its
// socket and the backend has no strike. Paths report datagrams that are too large.
// The backend itself reports datagrams of which it has received only some
// fragments.
func TestLostDatagramsAreNoFailures(t *testing.T) {
	if !lab.InNamespace(t) {
		return
	}
	side := newFarSide(t)
	overFamilies(t, func(t *testing.T, engine dgram.Engine, f family) {
		reports := map[string]func(d lab.Datagram) []byte{
			"packet too big": func(d lab.Datagram) []byte { return d.Error(f.attacker, lab.PacketTooBig(f.ipv4, 1300)) },
		}
		if !f.ipv4 { // Linux ignores this one on IPv4
			reports["reassembly timeout"] = func(d lab.Datagram) []byte { return d.Error(d.To.Addr(), lab.ReassemblyTimeout6) }
		}
		for name, report := range reports {
			t.Run(name, func(t *testing.T) {
				from := make(chan netip.AddrPort, 1024)
				backend := side.host(f.ipv4, func(d lab.Datagram) {
					if len(d.Payload) > 1200 {
						side.Send(report(d))
						return
					}
					from <- d.From
					side.reply(d)
				})
				s := newService(t, engine, nil, backend, "127.0.0.1:1")
				c := s.newClient()
				c.send("a")
				c.wants(t, backend+" a")
				c.send(string(make([]byte, 1250)))
				for n := range 10 {
					c.send(fmt.Sprint(n))
					c.wants(t, fmt.Sprint(backend, " ", n))
				}
				relaytest.Eventually(t, "the lost datagram to be counted", func() bool {
					return s.Stats(time.Now()).Dropped[handler.DroppedRefused] == 1
				})
				s.wantNoFailures(t)
				first := <-from
				for len(from) > 0 {
					if port := <-from; port != first {
						t.Fatalf("datagrams came from %v and %v", first, port)
					}
				}
			})
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
	overFamilies(t, func(t *testing.T, engine dgram.Engine, f family) {
		standby := namedBackend(t, "standby", "127.0.0.1:0")
		// The backend reports an error for the first datagram of each socket only.
		failed := make(map[netip.AddrPort]bool)
		backend := side.host(f.ipv4, func(d lab.Datagram) {
			if !failed[d.From] {
				failed[d.From] = true
				side.Send(d.Error(d.To.Addr(), f.portUnreachable))
			}
		})
		s := newService(t, engine, nil, backend, standby)
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
