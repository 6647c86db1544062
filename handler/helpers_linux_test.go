package handler

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// deadTCP holds a port that refuses connections: bound, but nobody listens,
// so that nobody else can take it either.
func deadTCP(t testing.TB, addr string) string {
	t.Helper()
	at := netip.MustParseAddrPort(addr)
	family, sockaddr := syscall.AF_INET6, syscall.Sockaddr(&syscall.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()})
	if at.Addr().Is4() {
		family, sockaddr = syscall.AF_INET, &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	check(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	check(t, syscall.Bind(fd, sockaddr))
	bound, err := syscall.Getsockname(fd)
	check(t, err)
	port := 0
	switch b := bound.(type) {
	case *syscall.SockaddrInet4:
		port = b.Port
	case *syscall.SockaddrInet6:
		port = b.Port
	}
	return netip.AddrPortFrom(at.Addr(), uint16(port)).String()
}

// setBacklog changes how many connections wait for a listener's Accept.
func setBacklog(t testing.TB, listener *net.TCPListener, n int) {
	t.Helper()
	raw, err := listener.SyscallConn()
	check(t, err)
	check(t, raw.Control(func(fd uintptr) { err = syscall.Listen(int(fd), n) }))
	check(t, err)
}

// waitForSYN waits until somebody of this process dials a silent address.
func waitForSYN(t testing.TB, addr string) {
	t.Helper()
	at := netip.MustParseAddrPort(addr)
	ip := at.Addr().As4()
	slices.Reverse(ip[:]) // the kernel prints the word as this machine reads it
	want := fmt.Sprintf(" %X:%04X 02 ", ip[:], at.Port())
	eventually(t, "a SYN to "+addr, func() bool {
		table, err := os.ReadFile("/proc/self/net/tcp")
		check(t, err)
		return strings.Contains(string(table), want)
	})
}
