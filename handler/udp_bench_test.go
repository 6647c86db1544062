package handler

import (
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// nopReplier drops answers. If received is not nil, it gets a value for each one.
type nopReplier struct{ received chan struct{} }

func (c *nopReplier) Reply(datagrams [][]byte) error {
	for range datagrams {
		if c.received != nil {
			c.received <- struct{}{}
		}
	}
	return nil
}

func (c *nopReplier) Release() {}

func benchRig(b *testing.B, backend string, edit ...func(*Options)) *udpRig {
	r := newUDPRig(b, []string{backend}, append(edit, func(o *Options) { o.Log = zap.NewNop() })...)
	r.engine.quiet = true
	return r
}

// BenchmarkUDPDeliver measures a datagram of an open session without answers.
func BenchmarkUDPDeliver(b *testing.B) {
	r := benchRig(b, "192.0.2.1:53")
	client, datagram := new(nopReplier), [][]byte{make([]byte, 64)}
	b.ReportAllocs()
	for b.Loop() {
		r.relay.Deliver(udpKey(1), datagram, client)
	}
}

// BenchmarkUDPQuery measures a datagram of an open session and its answer, with a
// reply timeout that is started and stopped.
func BenchmarkUDPQuery(b *testing.B) {
	r := benchRig(b, "192.0.2.1:53", func(o *Options) { o.UDPReplyTimeout = time.Second })
	client, datagram := new(nopReplier), [][]byte{make([]byte, 64)}
	r.relay.Deliver(udpKey(1), datagram, client)
	sink := r.session(1).socket
	b.ReportAllocs()
	for b.Loop() {
		r.relay.Deliver(udpKey(1), datagram, client)
		sink.Datagrams(datagram)
	}
}

// BenchmarkUDPSession measures the first datagram of a client while the table is
// full: one session starts and another is evicted.
func BenchmarkUDPSession(b *testing.B) {
	r := benchRig(b, "192.0.2.1:53", func(o *Options) { o.MaxUDPSessions = 1000 })
	client, datagram := new(nopReplier), [][]byte{make([]byte, 64)}
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		r.relay.Deliver(udpKey(n), datagram, client)
	}
}

// BenchmarkUDPBacklogsFull measures a datagram of a session that waits for a name,
// while the backlogs of all sessions are at their limit: an older datagram is dropped
// for it.
func BenchmarkUDPBacklogsFull(b *testing.B) {
	r := benchRig(b, "hangs.example:53", withBacklogs(NewBacklogs(8<<20)))
	r.resolver.set("hangs.example", hangAnswer)
	client, datagram := new(nopReplier), [][]byte{make([]byte, 64)}
	n := 0
	deliver := func() {
		n++
		r.relay.Deliver(udpKey(n%20_000), datagram, client)
	}
	for r.service.floods.total(backlogsFull) == 0 {
		deliver()
	}
	b.ReportAllocs()
	for b.Loop() {
		deliver()
	}
}

// Datagrams of an open session cause no allocations in either direction.
func TestUDPAllocations(t *testing.T) {
	r := newUDPRig(t, []string{"192.0.2.1:53"}, func(o *Options) {
		o.Log = zap.NewNop()
		o.UDPReplyTimeout = relaytest.Limit
	})
	r.engine.quiet = true
	client, datagram, key := new(nopReplier), [][]byte{make([]byte, 1400)}, udpKey(1)
	r.relay.Deliver(key, datagram, client)
	sink := r.session(1).socket
	for what, f := range map[string]func(){
		"a query and its answer": func() { r.relay.Deliver(key, datagram, client); sink.Datagrams(datagram) },
		"a query":                func() { r.relay.Deliver(key, datagram, client) },
		"an answer":              func() { sink.Datagrams(datagram) },
	} {
		if allocs := testing.AllocsPerRun(1000, f); allocs >= 1 {
			t.Errorf("%s: %v allocations", what, allocs)
		}
	}
}
