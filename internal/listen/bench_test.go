package listen

import (
	"net"
	"testing"
)

// A client is accepted by way of a listener, or by package net alone.
func BenchmarkTCPAccept(b *testing.B) {
	accept := func(b *testing.B, l net.Listener) {
		b.ReportAllocs()
		for b.Loop() {
			near, err := net.Dial("tcp", l.Addr().String())
			check(b, err)
			far, err := l.Accept()
			check(b, err)
			_ = near.(*net.TCPConn).SetLinger(0) // leaves no port waiting
			near.Close()
			far.Close()
		}
	}
	b.Run("shared", func(b *testing.B) { accept(b, openTCP(b, NewSockets(), freeAddr(b, "127.0.0.1"))) })
	b.Run("plain", func(b *testing.B) {
		l, err := net.Listen("tcp", freeAddr(b, "127.0.0.1").String())
		check(b, err)
		defer l.Close()
		accept(b, l)
	})
}

// takenBy is a client of a real socket that has been taken over by a sink.
func takenBy(b *testing.B, host string, sink func([]byte)) (near net.Conn, far *Conn) {
	l := openUDP(b, NewSockets(), freeAddr(b, host))
	near = dial(b, "udp", to("127.0.0.1", l.socket.at))
	send(b, near, "begin")
	far = accepted[*Conn](b, l)
	far.Take(0, each(sink))
	return near, far
}

// A datagram from the client's socket to the sink, the sending included.
func BenchmarkUDPReceive(b *testing.B) {
	for _, host := range []string{"127.0.0.1", ""} {
		b.Run("at="+host, func(b *testing.B) {
			came := make(chan struct{}, 1)
			near, _ := takenBy(b, host, func([]byte) { came <- struct{}{} })
			<-came
			datagram := make([]byte, 512)
			b.ReportAllocs()
			for b.Loop() {
				_, _ = near.Write(datagram)
				<-came
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

// The table and the hand-over alone.
func BenchmarkDeliver(b *testing.B) {
	u, l := bare()
	u.deliver(made(1), nil)
	(<-l.conns).Take(0, each(func([]byte) {}))
	datagram := make([]byte, 512)
	b.ReportAllocs()
	for b.Loop() {
		u.deliver(made(1), datagram)
	}
}
