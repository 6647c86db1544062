package netio

import (
	"net"
	"testing"
	"time"
)

// limit bounds every wait of a test. A test that reaches it has failed.
const limit = 30 * time.Second

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting for %s", what)
		}
	}
}

// tcpPair returns both ends of a connection over loopback.
func tcpPair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	check(t, err)
	accepted, err := listener.Accept()
	check(t, err)
	t.Cleanup(func() { conn.Close(); accepted.Close() })
	return conn.(*net.TCPConn), accepted.(*net.TCPConn)
}

// udpPair returns two sockets that are connected to each other.
func udpPair(t testing.TB) (near, far *net.UDPConn) {
	t.Helper()
	loopback := net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
	held, err := net.ListenUDP("udp", &loopback)
	check(t, err)
	address := held.LocalAddr().(*net.UDPAddr)
	near, err = net.DialUDP("udp", &loopback, address)
	check(t, err)
	check(t, held.Close())
	far, err = net.DialUDP("udp", address, near.LocalAddr().(*net.UDPAddr))
	check(t, err)
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}
