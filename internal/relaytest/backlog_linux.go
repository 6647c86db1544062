package relaytest

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// SetBacklog sets the number of connections that may wait for a listener's Accept.
func SetBacklog(t testing.TB, listener *net.TCPListener, n int) {
	t.Helper()
	raw, err := listener.SyscallConn()
	Check(t, err)
	Check(t, raw.Control(func(fd uintptr) { err = syscall.Listen(int(fd), n) }))
	Check(t, err)
}

// FillBacklog makes a listener's address silent until [SetBacklog] raises the
// limit: it fills the backlog, so that Linux drops each further SYN.
func FillBacklog(t testing.TB, listener *net.TCPListener) {
	t.Helper()
	SetBacklog(t, listener, 0)
	DialTCP(t, listener.Addr().String()) // a backlog of 0 has room for one
	raw, err := listener.SyscallConn()
	Check(t, err)
	Eventually(t, "the backlog to be full", func() (full bool) {
		Check(t, raw.Control(func(fd uintptr) {
			var info *unix.TCPInfo
			info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			full = err == nil && info.Unacked > info.Sacked // of a listener: waiting connections, and the backlog
		}))
		Check(t, err)
		return full
	})
}
