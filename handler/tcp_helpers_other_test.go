//go:build !linux

package handler

import (
	"net"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// deadTCP returns an address that refuses connections, unless another socket gets
// its port.
func deadTCP(t testing.TB, addr string) string {
	t.Helper()
	listener, err := net.Listen("tcp", addr)
	relaytest.Check(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

func waitForSYN(t testing.TB, _ string) { t.Skip("needs Linux") }
