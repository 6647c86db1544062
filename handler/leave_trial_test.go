package handler

import (
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// A client that waits for the first byte of a backend is sent to the next one when
// it must leave, or is reset if its bytes were not kept.
func TestClientLeavesDuringItsTrial(t *testing.T) {
	for _, kept := range []bool{true, false} {
		relaytest.NoLeaks(t)
		first, conns := acceptTCP(t, "127.0.0.1:0")
		second := serveTCP(t, "127.0.0.1:0", echo)
		r := newRig(t, []string{first.String(), second.String()}, func(o *Options) {
			o.FirstByte, o.CutDown = time.Hour, true
			if kept {
				rescuing(o)
			}
		})
		ann, done := r.client()
		relaytest.Write(t, ann, "question")
		conn := relaytest.Receive(t, "a connection", conns)
		relaytest.WantRead(t, conn, "question")
		r.condemnByTCP(first.String())
		wantEnding(t, "the backend", conn, "RST")
		if kept {
			relaytest.WantRead(t, ann, "question")
			continue
		}
		wantEnding(t, "ann", ann, "RST")
		relaytest.Receive(t, "the end of the relay", done)
		r.wantReasons(backendDown)
	}
}

// condemnByTCP demotes a backend as the failures of other clients do.
func (r *rig) condemnByTCP(backend string) {
	walk := r.service.Pool.Probe(r.service.Pool.Backend(backend), upstream.TCP, upstream.Listens)
	for range 2 {
		a, _ := walk.Next(time.Now())
		r.relay.recordFailure(&walk, outcome{attempt: a, err: errRefused}, upstream.TCP, healthCheckSource{})
	}
}

// A relay that connects in the moment of a demotion leaves, too: the demotion may
// have looked for the backend's relays before.
func TestRelayConnectsDuringADemotion(t *testing.T) {
	relaytest.NoLeaks(t)
	server := serveTCP(t, "127.0.0.1:0", echo)
	r := newRig(t, []string{server.String()}, func(o *Options) { o.CutDown = true })
	walk := r.service.Pool.Walk(upstream.TCP)
	a, _ := walk.Next(time.Now())
	r.condemn(server.String())
	mover := &cutMover{cut: make(chan stream.Reason, 1)}
	relay := &tcpRelay{relay: r.relay, client: server.listener.Addr(), local: server.listener.Addr()}
	relay.setMover(mover)
	relay.found(outcome{attempt: a, addr: a.Backend.IP}, time.Now())
	if got := relaytest.Receive(t, "a cut", mover.cut); got != backendDown {
		t.Errorf("cut for %q", got)
	}
	relay.tally.leave()
}

// cutMover is a mover that reports its cut.
type cutMover struct {
	stream.Mover
	cut chan stream.Reason
}

func (m *cutMover) Cut(reason stream.Reason) { m.cut <- reason }

// With failback move, a failback takes the clients of the backends behind away.
func TestFailbackOfAProbeMoves(t *testing.T) {
	for _, move := range []bool{true, false} {
		relaytest.NoLeaks(t)
		first, second := serveTCP(t, "127.0.0.1:0", echo), serveTCP(t, "127.0.0.1:0", echo)
		r := newRig(t, []string{first.String(), second.String()})
		r.condemn(first.String())
		ann, _ := r.client()
		relaytest.Write(t, ann, "one")
		relaytest.WantRead(t, ann, "one")
		probe := r.prober(HealthCheck{Networks: onTCP, Send: []byte("ping"), Rise: 1, Failback: true, Move: move}, first.String())
		probe()
		r.wantFirst(first.String())
		if move {
			wantEnding(t, "ann", ann, "RST")
			r.line("clients taken away from backend")
			continue
		}
		relaytest.Write(t, ann, "two")
		relaytest.WantRead(t, ann, "two")
	}
}
