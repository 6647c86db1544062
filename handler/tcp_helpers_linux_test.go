package handler

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// deadTCP returns an address that refuses connections. Its port is bound by a
// socket that does not listen, so that no other socket can get it.
func deadTCP(t testing.TB, addr string) string {
	t.Helper()
	at := netip.MustParseAddrPort(addr)
	family, sockaddr := syscall.AF_INET6, syscall.Sockaddr(&syscall.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()})
	if at.Addr().Is4() {
		family, sockaddr = syscall.AF_INET, &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	relaytest.Check(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	relaytest.Check(t, syscall.Bind(fd, sockaddr))
	bound, err := syscall.Getsockname(fd)
	relaytest.Check(t, err)
	port := 0
	switch b := bound.(type) {
	case *syscall.SockaddrInet4:
		port = b.Port
	case *syscall.SockaddrInet6:
		port = b.Port
	}
	return netip.AddrPortFrom(at.Addr(), uint16(port)).String()
}

// waitForSYN waits until a socket on this machine dials a silent address.
func waitForSYN(t testing.TB, addr string) {
	t.Helper()
	at := netip.MustParseAddrPort(addr)
	ip := at.Addr().As4()
	slices.Reverse(ip[:]) // the kernel prints the address as a number in host byte order
	want := fmt.Sprintf(" %X:%04X 02 ", ip[:], at.Port())
	relaytest.Eventually(t, "a SYN to "+addr, func() bool {
		table, err := os.ReadFile("/proc/self/net/tcp")
		relaytest.Check(t, err)
		return strings.Contains(string(table), want)
	})
}
