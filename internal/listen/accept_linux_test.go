package listen

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A client's addresses equal those that package net returns, also on wildcard and
// dual-stack sockets.
func TestAcceptedAddresses(t *testing.T) {
	t.Setenv("RELAY_DISABLE", "")
	for _, test := range []struct{ listen, dial string }{
		{"127.0.0.1", "127.0.0.1"},
		{"0.0.0.0", "127.0.0.1"},
		{"0.0.0.0", "127.1.2.3"},
		{"", "127.0.0.1"}, // IPv4-mapped on a dual-stack socket
		{"", "::1"},
		{"::", "::1"},
		{"::1", "::1"},
	} {
		t.Run(test.listen+" dialled as "+test.dial, func(t *testing.T) {
			relaytest.NoLeaks(t)
			at := freeAddr(t, test.listen)
			l, err := NewSockets().TCP(at, quiet())
			if err != nil {
				t.Skip(err) // no IPv6 on this system
			}
			defer l.Close()
			peer := dial(t, "tcp", net.JoinHostPort(test.dial, portOf(at.String())))
			c := accepted[*TCPConn](t, l)
			wantAddr(t, "local", c.LocalAddr(), peer.RemoteAddr())
			wantAddr(t, "remote", c.RemoteAddr(), peer.LocalAddr())
			inner, err := c.Net()
			relaytest.Check(t, err)
			wantAddr(t, "local", c.LocalAddr(), inner.LocalAddr())
			wantAddr(t, "remote", c.RemoteAddr(), inner.RemoteAddr())
		})
	}
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

func wantAddr(t *testing.T, which string, got, want net.Addr) {
	t.Helper()
	tcp, ok := got.(*net.TCPAddr)
	if !ok || got.String() != want.String() || tcp.AddrPort().Addr().Is4In6() && want.(*net.TCPAddr).IP.To4() == nil {
		t.Errorf("the %s address is %v, want %v", which, got, want)
	}
}

// Clients have the flags and options that relays need.
func TestAcceptedOptions(t *testing.T) {
	c, _ := newTCPConn(t)
	flags, err := unix.FcntlInt(uintptr(c.fd), unix.F_GETFL, 0)
	relaytest.Check(t, err)
	if flags&unix.O_NONBLOCK == 0 {
		t.Error("not non-blocking")
	}
	if flags, err = unix.FcntlInt(uintptr(c.fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("not close-on-exec: %v", err)
	}
	if on, err := unix.GetsockoptInt(int(c.fd), syscall.IPPROTO_TCP, unix.TCP_NODELAY); err != nil || on == 0 {
		t.Errorf("no TCP_NODELAY: %v", err)
	}
	conn, err := c.Net()
	relaytest.Check(t, err)
	raw, err := conn.SyscallConn()
	relaytest.Check(t, err)
	relaytest.Check(t, raw.Control(func(fd uintptr) {
		if on, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE); err != nil || on == 0 {
			t.Errorf("no SO_KEEPALIVE: %v", err)
		}
	}))
}
