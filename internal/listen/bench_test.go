package listen

import (
	"net"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// BenchmarkTCPAccept compares accepting through a shared socket with package net.
func BenchmarkTCPAccept(b *testing.B) {
	accept := func(b *testing.B, l net.Listener) {
		b.ReportAllocs()
		for b.Loop() {
			near, err := net.Dial("tcp", l.Addr().String())
			relaytest.Check(b, err)
			far, err := l.Accept()
			relaytest.Check(b, err)
			_ = near.(*net.TCPConn).SetLinger(0) // leaves no port in TIME_WAIT
			near.Close()
			far.Close()
		}
	}
	b.Run("shared", func(b *testing.B) { accept(b, openTCP(b, NewSockets(), freeAddr(b, "127.0.0.1"))) })
	b.Run("plain", func(b *testing.B) {
		l, err := net.Listen("tcp", freeAddr(b, "127.0.0.1").String())
		relaytest.Check(b, err)
		defer l.Close()
		accept(b, l)
	})
}

// takenBy returns a client of a real socket that was taken over by sink.
func takenBy(b *testing.B, host string, sink func([]byte)) (near net.Conn, far *Conn) {
	l := openUDP(b, NewSockets(), freeAddr(b, host))
	near = dial(b, "udp", to("127.0.0.1", l.socket.at))
	send(b, near, "begin")
	far = accepted[*Conn](b, l)
	far.Take(0, each(sink))
	return near, far
}

// BenchmarkUDPReceive measures a datagram from the client to the sink, with its
// sending.
func BenchmarkUDPReceive(b *testing.B) {
	for _, host := range []string{"127.0.0.1", ""} {
		b.Run("at="+host, func(b *testing.B) {
			received := make(chan struct{}, 1)
			near, _ := takenBy(b, host, func([]byte) { received <- struct{}{} })
			<-received
			datagram := make([]byte, 512)
			b.ReportAllocs()
			for b.Loop() {
				_, _ = near.Write(datagram)
				<-received
			}
		})
	}
}

func BenchmarkUDPWrite(b *testing.B) {
	for _, host := range []string{"127.0.0.1", ""} {
		b.Run("at="+host, func(b *testing.B) {
			_, far := takenBy(b, host, func([]byte) {})
			datagram := make([]byte, 512)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := far.Write(datagram); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDeliver measures the delivery without a kernel socket.
func BenchmarkDeliver(b *testing.B) {
	u, l := fakeSocket()
	u.deliver(fakeKey(1), nil)
	(<-l.conns).Take(0, each(func([]byte) {}))
	datagram := make([]byte, 512)
	b.ReportAllocs()
	for b.Loop() {
		u.deliver(fakeKey(1), datagram)
	}
}
