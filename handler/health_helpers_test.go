package handler

import (
	"context"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

var (
	onTCP  = []upstream.Network{upstream.TCP}
	onUDP  = []upstream.Network{upstream.UDP}
	onBoth = []upstream.Network{upstream.TCP, upstream.UDP}
)

// prober returns a function that probes a backend of the rig once. A check
// without a timeout gets that of the test.
func (r *rig) prober(check HealthCheck, backend string) (probe func()) {
	r.t.Helper()
	if check.Timeout == 0 {
		check.Timeout = relaytest.Limit
	}
	probeOnce := newHealthChecker(r.relay, check).start(r.service.Pool.Backend(backend))
	return func() { probeOnce(r.t.Context()) }
}

// checkHealth runs a check until end is called or the test ends. end waits until
// the check has ended.
func (r *rig) checkHealth(check HealthCheck) (end func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.relay.CheckHealth(ctx, check)
	}()
	end = func() {
		cancel()
		relaytest.Receive(r.t, "the end of the health check", ended)
	}
	r.t.Cleanup(end)
	return end
}

// wantState checks a backend's state on a network.
func (r *rig) wantState(backend string, n upstream.Network, want upstream.State) {
	r.t.Helper()
	if s := r.status(backend, n); s.State != want {
		r.t.Fatalf("%s is %s on %s, want %s:\n%s", backend, s.State, n, want, r.transcript())
	}
}

// wantFirst checks which backend is the first in the queue.
func (r *rig) wantFirst(backend string) {
	r.t.Helper()
	if order := r.service.Pool.Order(); order[0] != backend {
		r.t.Fatalf("order %v, want %s first:\n%s", order, backend, r.transcript())
	}
}

// drainAll drains all backends. The pool refuses to drain the last one, so a
// spare backend is added and removed again.
func (r *rig) drainAll() {
	r.t.Helper()
	pool := r.service.Pool
	var all []upstream.Address
	for _, s := range pool.Snapshot(time.Now()) {
		all = append(all, s.Backend.Address)
	}
	pool.Update(append(all, upstream.Address{Text: "spare"}), 0)
	for _, a := range all {
		_, err := pool.SetDrained(pool.Backend(a.Text), true)
		relaytest.Check(r.t, err)
	}
	pool.Update(all, 0)
}
