package handler

import (
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/async-relay/caddy-relay/internal/dgram"
)

// benchEngines runs a benchmark over each engine; loops are only on Linux.
func benchEngines(b *testing.B, bench func(*testing.B, dgram.Engine)) {
	b.Run("goroutines", func(b *testing.B) { bench(b, dgram.Goroutines{}) })
	b.Run("loops", func(b *testing.B) { bench(b, dgram.NewEngine()) })
}

// BenchmarkUDPEcho is a datagram to a real backend on loopback and back, one
// client at a time.
func BenchmarkUDPEcho(b *testing.B) {
	benchEngines(b, func(b *testing.B, engine dgram.Engine) {
		backend := newUDPBackend(b, echoDatagram)
		r := benchRig(b, backend.addr, withUDP(engine))
		client := &nopReplier{took: make(chan struct{}, 1)}
		datagram := [][]byte{make([]byte, 64)}
		b.ReportAllocs()
		for b.Loop() {
			r.relay.Deliver(udpKey(1), datagram, client)
			<-client.took
		}
	})
}

// BenchmarkUDPEchoMany is the same with many clients side by side.
func BenchmarkUDPEchoMany(b *testing.B) {
	benchEngines(b, func(b *testing.B, engine dgram.Engine) {
		backend := newUDPBackend(b, echoDatagram)
		r := benchRig(b, backend.addr, withUDP(engine))
		datagram := [][]byte{make([]byte, 64)}
		var clients atomic.Int64
		b.SetParallelism(32)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			key := udpKey(int(clients.Add(1)))
			client := &nopReplier{took: make(chan struct{}, 1)}
			for pb.Next() {
				r.relay.Deliver(key, datagram, client)
				<-client.took
			}
		})
	})
}

// BenchmarkUDPOpen is a session from its first datagram to its end, beside
// one that stays.
func BenchmarkUDPOpen(b *testing.B) {
	benchEngines(b, func(b *testing.B, engine dgram.Engine) {
		backend := newUDPBackend(b, func([]byte) []byte { return nil })
		r := benchRig(b, backend.addr, withUDP(engine))
		client := new(nopReplier)
		r.relay.Deliver(udpKey(0), [][]byte{nil}, client)
		b.ReportAllocs()
		for b.Loop() {
			r.relay.Deliver(udpKey(1), [][]byte{nil}, client)
			r.session(1).end(serviceClosed)
		}
	})
}

// BenchmarkUDPSessionMemory reports what a session at rest costs this process:
// heap and stacks, with what its client's datagrams left in it. The kernel's
// sockets are not in it.
func BenchmarkUDPSessionMemory(b *testing.B) {
	const sessions = 10_000
	benchEngines(b, func(b *testing.B, engine dgram.Engine) {
		backend := newUDPBackend(b, echoDatagram)
		for b.Loop() {
			r := benchRig(b, backend.addr, withUDP(engine))
			client := &nopReplier{took: make(chan struct{}, 1)}
			datagram := [][]byte{make([]byte, 64)}
			before := inUse()
			for n := range sessions {
				r.relay.Deliver(udpKey(n), datagram, client)
				<-client.took
			}
			b.ReportMetric(float64(inUse()-before)/sessions, "B/session")
			r.service.Close()
		}
	})
}

// inUse is memory that is held, once what is garbage is gone.
func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
