package chaos

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/relaytest/lab"
)

// family holds the addresses of a lab network in one address family.
type family struct {
	ipv4                             bool
	attacker                         netip.Addr // some host that is not the backend
	portUnreachable, hostUnreachable lab.ICMP
}

var families = map[string]family{
	"IPv4": {true, netip.MustParseAddr("10.7.9.9"), lab.PortUnreachable4, lab.HostUnreachable4},
	"IPv6": {false, netip.MustParseAddr("fd07:9::9"), lab.PortUnreachable6, lab.HostUnreachable6},
}

// overFamilies runs a part of a test over each engine and address family, all in
// parallel.
func overFamilies(t *testing.T, test func(*testing.T, dgram.Engine, family)) {
	overEngines(t, func(t *testing.T, engine dgram.Engine) {
		t.Parallel()
		for name, f := range families {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, engine, f)
			})
		}
	})
}

// farSide is the far side of a TUN device, with hosts whose behaviour tests set.
type farSide struct {
	*lab.TUN

	mu    sync.Mutex // guards hosts
	hosts map[netip.Addr]func(lab.Datagram)
}

func newFarSide(t *testing.T) *farSide {
	t.Helper()
	side := &farSide{hosts: make(map[netip.Addr]func(lab.Datagram))}
	side.TUN = lab.NewTUN(t, func(_ *lab.TUN, d lab.Datagram) {
		side.mu.Lock()
		receive := side.hosts[d.To.Addr()]
		side.mu.Unlock()
		if receive != nil {
			receive(d)
		}
	}, "10.7.0.1/24", "fd07::1/64")
	return side
}

// host adds a host that handles datagrams with receive, and returns the address
// of its port 53.
func (side *farSide) host(ipv4 bool, receive func(lab.Datagram)) string {
	side.mu.Lock()
	defer side.mu.Unlock()
	number := byte(2 + len(side.hosts))
	ip := netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x07, 15: number})
	if ipv4 {
		ip = netip.AddrFrom4([4]byte{10, 7, 0, number})
	}
	side.hosts[ip] = receive
	return netip.AddrPortFrom(ip, 53).String()
}

// reply sends an answer that names the backend.
func (side *farSide) reply(d lab.Datagram) {
	side.Send(d.Answer(fmt.Appendf(nil, "%s %s", d.To, d.Payload)))
}
