package handler

import (
	"context"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

var (
	onTCP  = []upstream.Network{upstream.TCP}
	onUDP  = []upstream.Network{upstream.UDP}
	onBoth = []upstream.Network{upstream.TCP, upstream.UDP}
)

// patient is one of the rig's backends under a check that is run by hand: each
// call is one probe. Without a timeout the check has all the time of the test.
func (r *rig) patient(check HealthCheck, backend string) (probe func()) {
	r.t.Helper()
	if check.Timeout == 0 {
		check.Timeout = limit
	}
	once := newHealthChecker(r.relay, check).attend(r.service.Pool.Backend(backend))
	return func() { once(r.t.Context()) }
}

// checkHealth runs a check until the test ends, or end is called, which waits
// for it.
func (r *rig) checkHealth(check HealthCheck) (end func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		r.relay.CheckHealth(ctx, check)
	}()
	end = func() {
		cancel()
		receiveFrom(r.t, "the end of the health check", over)
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

// wantFirst checks who leads the queue.
func (r *rig) wantFirst(backend string) {
	r.t.Helper()
	if order := r.service.Pool.Order(); order[0] != backend {
		r.t.Fatalf("order %v, want %s first:\n%s", order, backend, r.transcript())
	}
}

// drainAll has every backend drained, which takes a reload: of those in force
// the last one is not drained.
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
		check(r.t, err)
	}
	pool.Update(all, 0)
}
