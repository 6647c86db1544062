package relaytest

import (
	"net"
	"testing"
)

// UDPBackend is a UDP server on loopback.
type UDPBackend struct {
	Conn     *net.UDPConn
	Addr     string
	Received chan string // gets each datagram, unless it is full
}

// NewUDPBackend starts a server that calls answer with each datagram and sends the
// result back, unless that is nil. The server ends with the test.
func NewUDPBackend(t testing.TB, answer func([]byte) []byte) *UDPBackend {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	Check(t, err)
	b := &UDPBackend{Conn: conn, Addr: conn.LocalAddr().String(), Received: make(chan string, 1024)}
	t.Cleanup(func() { _ = conn.Close() })
	go func() { // ends when the socket is closed
		buf := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			select {
			case b.Received <- string(buf[:n]):
			default: // the test does not read so many
			}
			if datagram := answer(buf[:n]); datagram != nil {
				_, _ = conn.WriteToUDPAddrPort(datagram, from)
			}
		}
	}()
	return b
}

// Echo returns the datagram that it is given. It is an answer for [NewUDPBackend].
func Echo(datagram []byte) []byte { return datagram }
