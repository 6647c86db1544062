package listen

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A client's addresses are those of package net's connections, also where the
// socket listens at a wildcard and for both families.
func TestAcceptedAddresses(t *testing.T) {
	t.Setenv("RELAY_DISABLE", "")
	for _, test := range []struct{ listen, dial string }{
		{"127.0.0.1", "127.0.0.1"},
		{"0.0.0.0", "127.0.0.1"},
		{"0.0.0.0", "127.1.2.3"},
		{"", "127.0.0.1"}, // IPv4 on a socket of IPv6: mapped
		{"", "::1"},
		{"::", "::1"},
		{"::1", "::1"},
	} {
		t.Run(test.listen+" by "+test.dial, func(t *testing.T) {
			noLeaks(t)
			at := freeAddr(t, test.listen)
			l, err := NewSockets().TCP(at, quiet())
			if err != nil {
				t.Skip(err) // no IPv6 here
			}
			defer l.Close()
			peer := dial(t, "tcp", net.JoinHostPort(test.dial, portOf(at.String())))
			c := accepted[*TCPConn](t, l)
			wantAddr(t, "local", c.LocalAddr(), peer.RemoteAddr())
			wantAddr(t, "remote", c.RemoteAddr(), peer.LocalAddr())
			below, err := c.Net()
			check(t, err)
			wantAddr(t, "local", c.LocalAddr(), below.LocalAddr())
			wantAddr(t, "remote", c.RemoteAddr(), below.RemoteAddr())
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

// Clients come as relays need them, by inheritance or by the call itself.
func TestAcceptedOptions(t *testing.T) {
	c, _ := light(t)
	flags, err := unix.FcntlInt(uintptr(c.fd), unix.F_GETFL, 0)
	check(t, err)
	if flags&unix.O_NONBLOCK == 0 {
		t.Error("it blocks")
	}
	if flags, err = unix.FcntlInt(uintptr(c.fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("it outlives an exec: %v", err)
	}
	if on, err := unix.GetsockoptInt(c.fd, syscall.IPPROTO_TCP, unix.TCP_NODELAY); err != nil || on == 0 {
		t.Errorf("it delays: %v", err)
	}
	conn, err := c.Net()
	check(t, err)
	raw, err := conn.SyscallConn()
	check(t, err)
	check(t, raw.Control(func(fd uintptr) {
		if on, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE); err != nil || on == 0 {
			t.Errorf("nobody asks whether it is alive: %v", err)
		}
	}))
}
