package handler

import (
	"testing"
	"time"

	"go.uber.org/zap"
)

// nopReplier takes answers; took is told of each.
type nopReplier struct{ took chan struct{} }

func (c *nopReplier) Reply(datagrams [][]byte) error {
	for range datagrams {
		if c.took != nil {
			c.took <- struct{}{}
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

// BenchmarkUDPDeliver is a datagram of an open session, never answered.
func BenchmarkUDPDeliver(b *testing.B) {
	r := benchRig(b, "192.0.2.1:53")
	client, datagram := new(nopReplier), [][]byte{make([]byte, 64)}
	b.ReportAllocs()
	for b.Loop() {
		r.relay.Deliver(udpKey(1), datagram, client)
	}
}

// BenchmarkUDPAsk is a datagram of an open session and its answer, with a
// reply timeout to be set and stopped.
func BenchmarkUDPAsk(b *testing.B) {
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

// BenchmarkUDPSession is a client's first datagram at a full table: a session
// made, another evicted.
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

// An open session's datagrams cost no memory, in either direction.
func TestUDPAllocations(t *testing.T) {
	r := newUDPRig(t, []string{"192.0.2.1:53"}, func(o *Options) {
		o.Log = zap.NewNop()
		o.UDPReplyTimeout = limit
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
