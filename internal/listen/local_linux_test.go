package listen

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func messages(all ...[]byte) (oob []byte) {
	for _, one := range all {
		oob = append(oob, one...)
	}
	return oob
}

func pktInfo6(addr string, index uint32) []byte {
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: netip.MustParseAddr(addr).As16(), Ifindex: index})
}

func pktInfo4(local, header string) []byte {
	return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: netip.MustParseAddr(local).As4(), Addr: netip.MustParseAddr(header).As4()})
}

func TestLocalOf(t *testing.T) {
	noLeaks(t)
	other := unix.UnixRights(0) // some other message
	for _, c := range []struct {
		name string
		oob  []byte
		want string
	}{
		{"none", nil, ""},
		{"IPv4", pktInfo4("192.0.2.1", "192.0.2.1"), "192.0.2.1"},
		{"IPv4 broadcast", pktInfo4("192.0.2.1", "255.255.255.255"), "192.0.2.1"},
		{"IPv6", pktInfo6("2001:db8::1", 3), "2001:db8::1"},
		{"link-local", pktInfo6("fe80::1", 3), "fe80::1%3"},
		{"IPv4 on both families", messages(pktInfo6("::ffff:192.0.2.1", 3), pktInfo4("192.0.2.1", "192.0.2.1")), "192.0.2.1"},
		{"broadcast on both families", messages(pktInfo6("::ffff:255.255.255.255", 3), pktInfo4("192.0.2.1", "255.255.255.255")), "192.0.2.1"},
		{"multicast", pktInfo6("ff02::1", 3), ""},
		{"behind another", messages(other, pktInfo4("192.0.2.1", "192.0.2.1")), "192.0.2.1"},
		{"cut", pktInfo6("2001:db8::1", 3)[:20], ""},
		{"cut in the header", pktInfo6("2001:db8::1", 3)[:7], ""},
		{"zeros", make([]byte, 128), ""},
	} {
		got := localOf(append(make([]byte, 0, 128), c.oob...))
		if want, _ := netip.ParseAddr(c.want); got != want {
			t.Errorf("%s: %v, want %q", c.name, got, c.want)
		}
	}
	oob := messages(pktInfo6("::ffff:192.0.2.1", 3), pktInfo4("192.0.2.1", "192.0.2.1"))
	if n := testing.AllocsPerRun(100, func() { localOf(oob) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A client on the link, and one that sends to all nodes of it: both are
// answered.
func TestLinkLocal(t *testing.T) {
	local, name := linkLocal(t)
	noLeaks(t)
	at := freeAddr(t, "")
	l := openUDP(t, NewSockets(), at)
	near := dial(t, "udp", netip.AddrPortFrom(local.WithZone(name), at.Port()).String())
	send(t, near, "hello")
	far := accepted[*Conn](t, l)
	wantRead(t, far, "hello")
	send(t, far, "answer")
	wantRead(t, near, "answer")
	far.End()

	from, err := net.ListenUDP("udp6", &net.UDPAddr{IP: local.AsSlice(), Zone: name})
	check(t, err)
	defer from.Close()
	_, err = from.WriteToUDPAddrPort([]byte("all"), netip.AddrPortFrom(netip.MustParseAddr("ff02::1").WithZone(name), at.Port()))
	check(t, err)
	far = accepted[*Conn](t, l)
	wantRead(t, far, "all")
	send(t, far, "answer")
	wantRead(t, &unconnected{from}, "answer")
}

// unconnected hears anybody.
type unconnected struct{ *net.UDPConn }

// linkLocal is an address of this machine on a link, and the link.
func linkLocal(t *testing.T) (netip.Addr, string) {
	t.Helper()
	all, err := net.Interfaces()
	check(t, err)
	for _, i := range all {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagMulticast == 0 {
			continue
		}
		addrs, _ := i.Addrs()
		for _, addr := range addrs {
			if prefix, err := netip.ParsePrefix(addr.String()); err == nil && prefix.Addr().Is6() && prefix.Addr().IsLinkLocalUnicast() {
				return prefix.Addr(), i.Name
			}
		}
	}
	t.Skip("no link-local address")
	panic("unreachable")
}
