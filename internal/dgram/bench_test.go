package dgram

import (
	"net/netip"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// benchEngines runs a benchmark over each engine.
func benchEngines(b *testing.B, bench func(*testing.B, Engine)) {
	b.Run("goroutines", func(b *testing.B) { bench(b, Goroutines{}) })
	b.Run("loops", func(b *testing.B) { bench(b, NewEngine(nil)) })
}

// countSink reports each datagram.
type countSink struct{ received chan struct{} }

// Datagrams implements [Sink].
func (s countSink) Datagrams(datagrams [][]byte) {
	for range datagrams {
		s.received <- struct{}{}
	}
}

// Failed implements [Sink].
func (countSink) Failed(error) {}

// BenchmarkEcho sends one datagram to a backend on loopback and receives it back.
func BenchmarkEcho(b *testing.B) {
	benchEngines(b, func(b *testing.B, engine Engine) {
		sink := countSink{make(chan struct{}, 1)}
		socket := openSocket(b, engine, relaytest.NewUDPBackend(b, relaytest.Echo).Addr, sink)
		defer socket.Close()
		datagram := [][]byte{make([]byte, 64)}
		b.ReportAllocs()
		for b.Loop() {
			_, _ = socket.Send(datagram)
			<-sink.received
		}
	})
}

// BenchmarkOpen opens and closes a socket.
func BenchmarkOpen(b *testing.B) {
	benchEngines(b, func(b *testing.B, engine Engine) {
		addr, sink := netip.MustParseAddrPort(relaytest.NewUDPBackend(b, relaytest.Echo).Addr), new(collector)
		b.ReportAllocs()
		for b.Loop() {
			socket, err := engine.Open(addr, sink)
			if err != nil {
				b.Fatal(err)
			}
			socket.Close()
		}
	})
}
