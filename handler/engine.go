package handler

import (
	"errors"
	"net"
	"net/netip"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// goroutines is the [Engine] that works on any system: a socket of package
// net, and a goroutine that waits on it, for each session.
type goroutines struct{}

// Open implements [Engine].
func (goroutines) Open(addr netip.AddrPort, sink Sink) (Socket, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, err
	}
	go receive(conn, sink) // ends when the socket is closed
	return &udpSocket{conn: conn}, nil
}

// maxFailures is how many errors in a row a socket may have before it is given
// up, so that one that is broken for good does not spin.
const maxFailures = 1000

// receive gives the sink what comes in until the socket is closed.
func receive(conn *net.UDPConn, sink Sink) {
	reader := netio.NewReader(conn)
	defer reader.Release()
	var one [1][]byte
	for failures := 0; failures < maxFailures; {
		var err error
		one[0], err = reader.Next()
		switch {
		case err == nil:
			failures = 0
			sink.Datagrams(one[:])
		case errors.Is(err, net.ErrClosed):
			return
		default:
			// An ICMP message, mostly, after which the socket is as good as new.
			failures++
			sink.Failed(err)
		}
	}
	_ = conn.Close() // whoever sends next is told
}

// udpSocket is a connected socket; sending is up to the system.
type udpSocket struct {
	conn *net.UDPConn
	sender
}

// Send implements [Socket].
func (s *udpSocket) Send(datagrams [][]byte) (sent int, err error) {
	for sent < len(datagrams) {
		if err := s.send(s.conn, datagrams[sent]); err != nil {
			return sent, err
		}
		sent++
	}
	return sent, nil
}

// Close implements [Socket].
func (s *udpSocket) Close() { _ = s.conn.Close() }
