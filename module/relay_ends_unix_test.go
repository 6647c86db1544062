//go:build unix

package module_test

import (
	"net"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// sendUrgent sends one byte of urgent data.
func sendUrgent(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	relaytest.Check(t, err)
	relaytest.Check(t, raw.Write(func(fd uintptr) bool {
		err = syscall.Sendto(int(fd), []byte("!"), syscall.MSG_OOB, nil)
		return err != syscall.EAGAIN
	}))
	relaytest.Check(t, err)
}
