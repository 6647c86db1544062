package netio

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// controlMessages concatenates control messages.
func controlMessages(all ...[]byte) (oob []byte) {
	for _, one := range all {
		oob = append(oob, one...)
	}
	return oob
}

func packetInfo6(addr string, index uint32) []byte {
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: netip.MustParseAddr(addr).As16(), Ifindex: index})
}

func packetInfo4(local, header string) []byte {
	return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: netip.MustParseAddr(local).As4(), Addr: netip.MustParseAddr(header).As4()})
}

func TestPacketInfoLocal(t *testing.T) {
	relaytest.NoLeaks(t)
	other := unix.UnixRights(0) // an unrelated message
	for _, c := range []struct {
		name string
		oob  []byte
		want string
	}{
		{"none", nil, ""},
		{"IPv4", packetInfo4("192.0.2.1", "192.0.2.1"), "192.0.2.1"},
		{"IPv4 broadcast", packetInfo4("192.0.2.1", "255.255.255.255"), "192.0.2.1"},
		{"IPv6", packetInfo6("2001:db8::1", 3), "2001:db8::1"},
		{"link-local", packetInfo6("fe80::1", 3), "fe80::1%3"},
		{"IPv4, dual-stack", controlMessages(packetInfo6("::ffff:192.0.2.1", 3), packetInfo4("192.0.2.1", "192.0.2.1")), "192.0.2.1"},
		{"broadcast, dual-stack", controlMessages(packetInfo6("::ffff:255.255.255.255", 3), packetInfo4("192.0.2.1", "255.255.255.255")), "192.0.2.1"},
		{"multicast", packetInfo6("ff02::1", 3), ""},
		{"after another message", controlMessages(other, packetInfo4("192.0.2.1", "192.0.2.1")), "192.0.2.1"},
		{"truncated", packetInfo6("2001:db8::1", 3)[:20], ""},
		{"truncated header", packetInfo6("2001:db8::1", 3)[:7], ""},
		{"zeros", make([]byte, 128), ""},
	} {
		got := PacketInfoLocal(append(make([]byte, 0, 128), c.oob...))
		if want, _ := netip.ParseAddr(c.want); got != want {
			t.Errorf("%s: %v, want %q", c.name, got, c.want)
		}
	}
	oob := controlMessages(packetInfo6("::ffff:192.0.2.1", 3), packetInfo4("192.0.2.1", "192.0.2.1"))
	if n := testing.AllocsPerRun(100, func() { PacketInfoLocal(oob) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
