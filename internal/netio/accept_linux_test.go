package netio

import (
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// AcceptNonblock returns queued clients with their addresses, and EAGAIN when none
// is queued.
func TestAcceptNonblock(t *testing.T) {
	relaytest.NoLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	relaytest.Check(t, err)
	defer ln.Close()
	raw, err := ln.(*net.TCPListener).SyscallConn()
	relaytest.Check(t, err)
	accept := func() (fd int, client netip.AddrPort, errno syscall.Errno) {
		relaytest.Check(t, raw.Control(func(listener uintptr) {
			SetNoDelay(int(listener))
			fd, client, errno = AcceptNonblock(int(listener))
		}))
		return fd, client, errno
	}
	if _, _, errno := accept(); errno != syscall.EAGAIN {
		t.Errorf("without a client: %v", errno)
	}
	conn, err := net.Dial("tcp", ln.Addr().String())
	relaytest.Check(t, err)
	defer conn.Close()
	fd, client, errno := -1, netip.AddrPort{}, syscall.EAGAIN
	relaytest.Eventually(t, "the client", func() bool {
		fd, client, errno = accept()
		return errno != syscall.EAGAIN
	})
	if errno != 0 {
		t.Fatal(errno)
	}
	defer CloseDescriptor(fd)
	if client.String() != conn.LocalAddr().String() {
		t.Errorf("the client is %v, want %v", client, conn.LocalAddr())
	}
	if local, err := LocalAddr(fd); err != nil || local.String() != ln.Addr().String() {
		t.Errorf("the local address is %v, %v, want %v", local, err, ln.Addr())
	}
	if on, errno := Option(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY); errno != 0 || on == 0 {
		t.Errorf("TCP_NODELAY is %d, %v", on, errno)
	}
	if _, errno := ReadNonblock(fd, make([]byte, 1)); errno != syscall.EAGAIN {
		t.Errorf("read without data: %v", errno)
	}
	if _, _, errno := accept(); errno != syscall.EAGAIN {
		t.Errorf("after the last client: %v", errno)
	}
}
