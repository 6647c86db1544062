package netio

import (
	"net"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// udpPair returns two sockets that are connected to each other.
func udpPair(t testing.TB) (near, far *net.UDPConn) {
	t.Helper()
	loopback := net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
	held, err := net.ListenUDP("udp", &loopback)
	relaytest.Check(t, err)
	address := held.LocalAddr().(*net.UDPAddr)
	near, err = net.DialUDP("udp", &loopback, address)
	relaytest.Check(t, err)
	relaytest.Check(t, held.Close())
	far, err = net.DialUDP("udp", address, near.LocalAddr().(*net.UDPAddr))
	relaytest.Check(t, err)
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}
