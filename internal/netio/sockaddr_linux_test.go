package netio

import (
	"net"
	"net/netip"
	"strconv"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

func TestZones(t *testing.T) {
	links, err := net.Interfaces()
	relaytest.Check(t, err)
	if len(links) == 0 {
		t.Skip("no interface")
	}
	link := links[0]
	number := strconv.Itoa(link.Index)
	for _, test := range []struct {
		zone  string
		index uint32
		fails bool
	}{
		{"", 0, false},
		{link.Name, uint32(link.Index), false},
		{number, uint32(link.Index), false},
		{"4000000000", 4_000_000_000, false},
		{"no-such-interface", 0, true},
		{"5000000000", 0, true}, // no index, and no name
	} {
		if got, err := InterfaceIndex(test.zone); got != test.index || (err != nil) != test.fails {
			t.Errorf("zone %q has the index %d, %v", test.zone, got, err)
		}
	}
	for _, test := range []struct{ addr, want string }{
		{"fe80::1%" + number, "fe80::1%" + link.Name},
		{"fe80::1%" + link.Name, "fe80::1%" + link.Name},
		{"fe80::1%4000000000", "fe80::1%4000000000"}, // no such interface
		{"fe80::1", "fe80::1"},
		{"127.0.0.1", "127.0.0.1"},
	} {
		if got := ZoneName(netip.MustParseAddr(test.addr)).String(); got != test.want {
			t.Errorf("%s has the name %s, want %s", test.addr, got, test.want)
		}
	}
}

// An address survives its way through the kernel's form.
func TestSockaddr(t *testing.T) {
	for _, test := range []struct {
		addr, want string
		ipv4       bool
	}{
		{"127.0.0.1:65535", "127.0.0.1:65535", true},
		{"127.0.0.1:1", "127.0.0.1:1", false}, // mapped
		{"[::1]:258", "[::1]:258", false},
		{"[fe80::1%7]:80", "[fe80::1%7]:80", false},
		{"[fe80::1%lo]:80", "[fe80::1]:80", false}, // a name is no index
	} {
		s := newSockaddr(netip.MustParseAddrPort(test.addr), test.ipv4)
		if got := s.addrPort().String(); got != test.want {
			t.Errorf("%s has become %s, want %s", test.addr, got, test.want)
		}
	}
}
