package handler

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
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

// descriptors counts those of this process but pipes, of which package net keeps
// some for a copy of its own until a garbage collection.
func descriptors(t testing.TB) int {
	t.Helper()
	all, pipes := openFiles(t)
	return all - pipes
}

func openFiles(t testing.TB) (all, pipes int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	for _, file := range list {
		if to, _ := os.Readlink("/proc/self/fd/" + file.Name()); strings.HasPrefix(to, "pipe:") {
			pipes++
		}
	}
	return len(list), pipes
}

// pending says whether a datagram waits in a socket.
func pending(t testing.TB, fd int) bool {
	t.Helper()
	n, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
	return n > 0
}
