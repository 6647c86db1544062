//go:build !linux

package relaytest

import (
	"net"
	"testing"
)

// SetBacklog skips the test: only Linux is known to drop SYNs beyond the backlog.
func SetBacklog(t testing.TB, _ *net.TCPListener, _ int) {
	t.Helper()
	t.Skip("needs Linux")
}

// FillBacklog skips the test, as [SetBacklog] does.
func FillBacklog(t testing.TB, _ *net.TCPListener) {
	t.Helper()
	t.Skip("needs Linux")
}
