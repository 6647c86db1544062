package handler

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// This file looks for backends that have recovered, while clients are held.

// recheckEvery is the interval of the attempts on all backends while clients are
// held. A held client is served that long after a backend has recovered, at most.
const recheckEvery = 25 * time.Millisecond

// Bounds of the attempts while clients are held. A silent backend leaves each of
// them without a result.
const (
	maxRechecks  = 40          // that run on one backend at the same time
	recheckLimit = time.Second // of one that is not the first
)

// recheck dials all backends until ctx ends, and wakes the held clients up when
// one of them accepts. A backend that a check has condemned recovers by a check, so
// it is checked instead. Failures are not recorded: each held client had failures
// of its own.
func (s *Service) recheck(ctx context.Context) {
	running := make(map[*upstream.Backend]*atomic.Int32)
	tick := time.NewTicker(recheckEvery)
	defer tick.Stop()
	for {
		r := s.holds.rechecker()
		if r == nil {
			return // no client is held
		}
		for _, b := range s.Pool.Undrained() {
			if running[b] == nil {
				running[b] = new(atomic.Int32)
			}
			r.startRecheck(ctx, b, running[b])
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// startRecheck dials a backend, unless enough dials of it are running.
func (r *Relay) startRecheck(ctx context.Context, b *upstream.Backend, running *atomic.Int32) {
	limit := recheckLimit
	condemned := b.Condemned(upstream.TCP)
	switch n := running.Load(); {
	case condemned && n > 0:
		return // checks do not overlap
	case n >= maxRechecks:
		return
	case n == 0: // one may take as long as a client's attempt
		limit = r.opts.ConnectTimeout
	}
	running.Add(1)
	go func() { // ends with its dial
		defer running.Add(-1)
		if condemned {
			r.recheckCondemned(ctx, b)
		} else {
			r.recheckOnce(ctx, b, min(limit, r.opts.ConnectTimeout))
		}
	}()
}

func (r *Relay) recheckCondemned(ctx context.Context, b *upstream.Backend) {
	defer func() {
		if value := recover(); value != nil {
			r.panicked(upstream.TCP, heldClientsName, value)
		}
	}()
	if c := r.service.checker.Load(); c != nil && c.check.Condemns(upstream.TCP) {
		c.recheck(ctx, b)
	}
}

func (r *Relay) recheckOnce(ctx context.Context, b *upstream.Backend, limit time.Duration) {
	defer func() {
		if value := recover(); value != nil {
			r.panicked(upstream.TCP, heldClientsName, value)
		}
	}()
	walk := r.service.Pool.Probe(b, upstream.TCP, upstream.Listens)
	a, _ := walk.Next(time.Now())
	o := outcome{attempt: a}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errConnectTimeout)
	defer cancel()
	if drill := r.service.drills.of(b); drill.delay(ctx) != nil || drill.resets() {
		return
	}
	addrs, err := r.resolve(ctx, b, upstream.TCP, recheckQuery(a))
	if err == nil {
		addrs, err = r.withoutOwn(upstream.TCP, addrs, b.Port)
	}
	if err != nil {
		return
	}
	o.conn, o.addr, o.err = r.dialer().Any(ctx, addrs, b.Port, nil)
	if o.err != nil {
		return
	}
	_ = o.conn.Close()
	o.took = time.Since(a.Began)
	if !r.opts.trials() { // otherwise a connection alone is no success
		r.recordSuccess(&walk, o, upstream.TCP, heldClients{}, time.Now(), true)
	}
	r.service.holds.wakeUp()
}

// recheckNames is how old an answer of the DNS may be while clients are held: a
// backend may recover at another address.
const recheckNames = time.Second

func recheckQuery(a upstream.Attempt) query {
	return query{how: afresh, since: a.Began.Add(-recheckNames)}
}

// heldClients stands for the clients on whose behalf backends are dialled.
type heldClients struct{}

// String implements fmt.Stringer.
func (heldClients) String() string { return heldClientsName }

const heldClientsName = "held clients"
