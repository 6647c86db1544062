package relaytest

import (
	"net"
	"syscall"
	"testing"
	"time"
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
	for {
		conn, err := net.DialTimeout("tcp", listener.Addr().String(), 100*time.Millisecond)
		switch timeout, _ := err.(net.Error); {
		case err == nil:
			t.Cleanup(func() { conn.Close() })
		case timeout != nil && timeout.Timeout():
			return
		default:
			t.Fatal(err)
		}
	}
}
