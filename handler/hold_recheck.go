package handler

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// This file looks for backends that have recovered, while clients are held.

// recheckEvery is the interval of the attempts on all backends while clients are
// held. A held client is served that long after a backend has recovered, at most. A
// backend that has the port of each client is tried at one of their ports each time.
const recheckEvery = 25 * time.Millisecond

// Bounds of the attempts while clients are held. A silent backend leaves each of
// them without a result.
const (
	maxRechecks  = 40          // that run on one backend at the same time
	recheckLimit = time.Second // of one that is not the first
)

// rechecks are the attempts on behalf of the held clients of one network.
type rechecks struct {
	stop  context.CancelFunc // nil: none run
	relay *Relay             // makes them: the latest one with a held client
	ports map[uint16]int     // that held TCP clients have addressed, with the number of the clients
}

// enterPort counts a held client that has addressed a port.
func (r *rechecks) enterPort(port uint16) {
	if r.ports == nil {
		r.ports = make(map[uint16]int)
	}
	r.ports[port]++
}

// leavePort ends enterPort.
func (r *rechecks) leavePort(port uint16) {
	if r.ports[port]--; r.ports[port] == 0 {
		delete(r.ports, port)
	}
}

func (r *rechecks) end() {
	if r.stop != nil {
		r.stop()
		*r = rechecks{}
	}
}

// startRecheckLocked starts the attempts for a network, unless they run. current
// reports that r has the latest settings.
func (h *holds) startRecheckLocked(r *Relay, n upstream.Network, current bool) {
	running := &h.recheck[n]
	if running.relay == nil || current {
		running.relay = r
	}
	if running.stop == nil {
		var ctx context.Context
		ctx, running.stop = context.WithCancel(context.Background())
		go r.service.recheck(ctx, n) // ends when no client is held any longer
	}
}

// rechecker returns the relay that makes the attempts on behalf of held clients, and
// a port that TCP clients among them have addressed, each time any of these ports; nil if
// none is held. After a reload it has the new settings once one of its own clients is
// held.
func (h *holds) rechecker(n upstream.Network) (r *Relay, port uint16) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for port = range h.recheck[n].ports { // in random order
		break
	}
	return h.recheck[n].relay, port
}

// recheck makes attempts on all backends until ctx ends. They wake the held clients
// up when a backend accepts. A backend that a check has condemned recovers by a check,
// so it is checked instead. Failures are not recorded: each held client had failures
// of its own.
func (s *Service) recheck(ctx context.Context, n upstream.Network) {
	running := make(map[*upstream.Backend]*atomic.Int32)
	tick := time.NewTicker(recheckEvery)
	defer tick.Stop()
	for {
		r, port := s.holds.rechecker(n)
		if r == nil {
			return // no client is held
		}
		for _, b := range s.Pool.Undrained() {
			if running[b] == nil {
				running[b] = new(atomic.Int32)
			}
			r.startRecheck(ctx, b, n, b.PortFor(port), running[b])
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// startRecheck starts an attempt on a backend, unless enough of them are running.
func (r *Relay) startRecheck(ctx context.Context, b *upstream.Backend, n upstream.Network, port uint16, running *atomic.Int32) {
	limit := recheckLimit
	condemned := b.Condemned(n)
	switch count := running.Load(); {
	case condemned && count > 0:
		return // checks do not overlap
	case count >= maxRechecks:
		return
	case count == 0: // one may take as long as a client's attempt
		limit = r.opts.ConnectTimeout
	}
	limit = min(limit, r.opts.ConnectTimeout)
	running.Add(1)
	go func() { // ends with its attempt
		defer running.Add(-1)
		defer func() {
			if value := recover(); value != nil {
				r.panicked(n, heldClientsName, value)
			}
		}()
		switch {
		case condemned:
			r.recheckCondemned(ctx, b, n)
		case n == upstream.UDP:
			r.recheckUDP(ctx, b, limit)
		default:
			r.recheckTCP(ctx, b, port, limit)
		}
	}()
}

func (r *Relay) recheckCondemned(ctx context.Context, b *upstream.Backend, n upstream.Network) {
	if c := r.service.checker.Load(); c != nil && c.check.Condemns(n) {
		c.recheck(ctx, b)
	}
}

// recheckTCP dials a backend, unless it has the port of each client and port is 0: the
// held client addressed none.
func (r *Relay) recheckTCP(ctx context.Context, b *upstream.Backend, port uint16, limit time.Duration) {
	if port == 0 {
		return
	}
	walk := r.service.Pool.Probe(b, upstream.TCP, upstream.Listens)
	a, _ := walk.Next(time.Now())
	o := outcome{attempt: a, port: port}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errConnectTimeout)
	defer cancel()
	if drill := r.service.drills.of(b); drill.delay(ctx) != nil || drill.resets() {
		return
	}
	addrs, err := r.resolve(ctx, b, upstream.TCP, recheckQuery(a))
	if err == nil {
		addrs, err = r.withoutOwn(upstream.TCP, addrs, port)
	}
	if err != nil {
		return
	}
	o.conn, o.addr, o.err = r.dialer().Any(ctx, addrs, port, nil)
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
