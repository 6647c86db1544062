package handler

import (
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
)

// benchEngines runs a benchmark over each engine.
func benchEngines(b *testing.B, bench func(*testing.B, dgram.Engine)) {
	b.Run("goroutines", func(b *testing.B) { bench(b, dgram.Goroutines{}) })
	b.Run("loops", func(b *testing.B) { bench(b, dgram.NewEngine(nil)) })
}

// BenchmarkUDPEcho measures a datagram to a backend on loopback and back, with one
// client.
func BenchmarkUDPEcho(b *testing.B) {
	benchEngines(b, func(b *testing.B, engine dgram.Engine) {
		backend := relaytest.NewUDPBackend(b, relaytest.Echo)
		r := benchRig(b, backend.Addr, withUDP(engine))
		client := &nopReplier{received: make(chan struct{}, 1)}
		datagram := [][]byte{make([]byte, 64)}
		b.ReportAllocs()
		for b.Loop() {
			r.relay.Deliver(udpKey(1), datagram, client)
			<-client.received
		}
	})
}

// BenchmarkUDPEchoMany is BenchmarkUDPEcho with many concurrent clients.
func BenchmarkUDPEchoMany(b *testing.B) {
	benchEngines(b, func(b *testing.B, engine dgram.Engine) {
		backend := relaytest.NewUDPBackend(b, relaytest.Echo)
		r := benchRig(b, backend.Addr, withUDP(engine))
		datagram := [][]byte{make([]byte, 64)}
		var clients atomic.Int64
		b.SetParallelism(32)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			key := udpKey(int(clients.Add(1)))
			client := &nopReplier{received: make(chan struct{}, 1)}
			for pb.Next() {
				r.relay.Deliver(key, datagram, client)
				<-client.received
			}
		})
	})
}

// BenchmarkUDPOpen measures a session from its first datagram to its end, while
// another session stays open.
func BenchmarkUDPOpen(b *testing.B) {
	benchEngines(b, func(b *testing.B, engine dgram.Engine) {
		backend := relaytest.NewUDPBackend(b, func([]byte) []byte { return nil })
		r := benchRig(b, backend.Addr, withUDP(engine))
		client := new(nopReplier)
		r.relay.Deliver(udpKey(0), [][]byte{nil}, client)
		b.ReportAllocs()
		for b.Loop() {
			r.relay.Deliver(udpKey(1), [][]byte{nil}, client)
			r.session(1).end(stream.ServiceClosed)
		}
	})
}

// BenchmarkUDPSessionMemory reports the memory of an idle session: heap and
// stacks, including its backlog. It does not include the kernel's sockets.
func BenchmarkUDPSessionMemory(b *testing.B) {
	const sessions = 10_000
	benchEngines(b, func(b *testing.B, engine dgram.Engine) {
		backend := relaytest.NewUDPBackend(b, relaytest.Echo)
		for b.Loop() {
			r := benchRig(b, backend.Addr, withUDP(engine))
			client := &nopReplier{received: make(chan struct{}, 1)}
			datagram := [][]byte{make([]byte, 64)}
			before := inUse()
			for n := range sessions {
				r.relay.Deliver(udpKey(n), datagram, client)
				<-client.received
			}
			b.ReportMetric(float64(inUse()-before)/sessions, "B/session")
			r.service.Close()
		}
	})
}

// inUse returns the memory in use after a garbage collection.
func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
