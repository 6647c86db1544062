package netio

import (
	"net"
	"net/netip"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

func TestIsLocalAddr(t *testing.T) {
	for text, want := range map[string]bool{
		"127.0.0.1": true, "127.9.9.9": true, "::1": true, "::ffff:127.0.0.1": true,
		"0.0.0.0": true, "::": true,
		"192.0.2.1": false, "2001:db8::1": false, "fe80::1234:5678:9abc:def0%lo": false, "224.0.0.1": false,
	} {
		if got := IsLocalAddr(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	list, err := net.InterfaceAddrs()
	relaytest.Check(t, err)
	for _, one := range list {
		if addr, ok := netip.AddrFromSlice(one.(*net.IPNet).IP); ok && !IsLocalAddr(addr) {
			t.Errorf("%s is not local", addr)
		}
	}
}

// An old list is read again without the caller waiting for it.
func TestLocalAddrsAreReadAgain(t *testing.T) {
	defer knownLocal.Store(nil)
	addr := netip.MustParseAddr("192.0.2.99")
	l := &localAddrs{addrs: map[[16]byte]struct{}{addr.As16(): {}}}
	knownLocal.Store(l)
	if !IsLocalAddr(addr) {
		t.Error("the list was not used")
	}
	l.old.Store(true)
	relaytest.Eventually(t, "another list", func() bool { return !IsLocalAddr(addr) })
}

// A list that cannot be read again, because there are no descriptors, stays in use.
func TestLocalAddrsWithoutDescriptors(t *testing.T) {
	if !relaytest.InChild(t) {
		return
	}
	readLocalAddrs() // opens the runtime's own descriptors
	addr := netip.MustParseAddr("192.0.2.99")
	knownLocal.Store(&localAddrs{addrs: map[[16]byte]struct{}{addr.As16(): {}}})
	restore := relaytest.LimitDescriptors(t, 1)
	if _, err := net.InterfaceAddrs(); err == nil {
		restore()
		t.Skip("this system reads the list without a descriptor")
	}
	l := readLocalAddrs()
	restore()
	if _, ok := l.addrs[addr.As16()]; !ok || !IsLocalAddr(addr) {
		t.Error("the list is lost")
	}
}

func BenchmarkIsLocalAddr(b *testing.B) {
	addr := netip.MustParseAddr("198.51.100.1")
	for b.Loop() {
		IsLocalAddr(addr)
	}
}
