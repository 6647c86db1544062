package dgram

import (
	"errors"
	"net"
	"net/netip"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// Goroutines is the [Engine] that works on any system. Each of its sockets is a
// socket of package net with a goroutine that receives.
type Goroutines struct{}

// Open implements [Engine].
func (Goroutines) Open(addr netip.AddrPort, sink Sink) (Socket, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, err
	}
	go receive(conn, sink) // ends when the socket is closed
	return &goSocket{conn: conn}, nil
}

// receive passes what a socket receives to its sink, until the socket is closed
// or has failed maxFailures times in a row.
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
		default: // mostly an ICMP error, after which the socket works as before
			failures++
			sink.Failed(err)
		}
	}
	_ = conn.Close() // the next Send returns net.ErrClosed
}

// goSocket is a [Socket] of [Goroutines].
type goSocket struct {
	conn   *net.UDPConn
	writer netio.DatagramWriter
}

// Send implements [Socket].
func (s *goSocket) Send(datagrams [][]byte) (sent int, err error) {
	for sent < len(datagrams) {
		if err := s.writer.WriteNonblock(s.conn, datagrams[sent]); err != nil {
			return sent, err
		}
		sent++
	}
	return sent, nil
}

// Close implements [Socket].
func (s *goSocket) Close() { _ = s.conn.Close() }
