//go:build !linux

package handler

import (
	"net"
	"testing"
)

// deadTCP is a port that refuses connections, unless somebody takes it.
func deadTCP(t testing.TB, addr string) string {
	t.Helper()
	listener, err := net.Listen("tcp", addr)
	check(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

// setBacklog is Linux' way to make an address silent.
func setBacklog(t testing.TB, _ *net.TCPListener, _ int) {
	t.Helper()
	t.Skip("needs Linux")
}

func waitForSYN(t testing.TB, _ string) { t.Skip("needs Linux") }
