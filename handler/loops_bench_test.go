package handler

import (
	"net"
	"net/netip"
	"testing"

	"github.com/async-relay/caddy-relay/upstream"
)

// Finding loops costs ordinary clients a few nanoseconds and no allocation.
func BenchmarkLoops(b *testing.B) {
	r := newRig(b, []string{"192.0.2.1:1"}, func(o *Options) { o.Loops = NewLoops() })
	r.relay.opts.Loops.Listen(upstream.TCP, at("[::]:1"))
	for name, backend := range map[string]string{
		"another port":  "192.0.2.1:2",
		"the same port": "192.0.2.1:1",
		"loopback":      "127.0.0.1:2",
	} {
		b.Run(name, func(b *testing.B) {
			addr := at(backend)
			addrs := []netip.Addr{addr.Addr()}
			t := &tcpRelay{
				relay: r.relay, client: net.TCPAddrFromAddrPort(at("198.51.100.1:1")), local: net.TCPAddrFromAddrPort(at("198.51.100.2:1")),
			}
			b.ReportAllocs()
			for b.Loop() {
				if t.mayLoop(addr.Port(), addrs) {
					b.Fatal("may loop")
				}
				t.countSameHost(addr)
			}
		})
	}
}
