package handler

import (
	"context"
	"errors"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/upstream"
)

// HealthCheck says how the backends of a service are probed, and when a
// demoted one is moved back. Its durations are longer than 0.
type HealthCheck struct {
	Interval time.Duration // between the beginnings of two probes of a backend, give or take a tenth
	Timeout  time.Duration // of one attempt, lookup included; a probe makes a second one where a client would
	Send     []byte        // what the backend is sent; none: a TCP connect will do, and UDP is not probed
	Expect   []byte        // must be part of the answer; none: any answer to Send will do

	Networks []upstream.Network // those that are probed
	Failback bool               // a demoted backend returns to its configured place
	Rise     int                // after so many probes in a row that found it well on all of them
}

// healthCheckName takes the place of a client's address in the log and the
// journal.
const healthCheckName = "health check"

// healthCheckSource is the client of a probe's attempt.
type healthCheckSource struct{}

func (healthCheckSource) String() string { return healthCheckName }

var errHealthTimeout = errors.New("health check timeout")

// CheckHealth probes the backends of the service, whatever their condition,
// and books what comes of it as clients' attempts are. It follows the queue
// through reloads, and returns when ctx has ended and with it the last probe;
// at once if there is nothing to probe.
func (r *Relay) CheckHealth(ctx context.Context, check HealthCheck) {
	c := newHealthChecker(r, check)
	if len(c.networks) == 0 {
		return
	}
	s := schedule{interval: check.Interval, backends: c.backends, attend: c.attend}
	s.run(ctx)
}

// healthChecker probes for a service. Its fields are set once.
type healthChecker struct {
	relay    *Relay
	check    HealthCheck
	networks []upstream.Network // those that can be probed
}

func newHealthChecker(r *Relay, check HealthCheck) *healthChecker {
	// The patience with a lookup is a part of the time for an attempt.
	opts := r.opts
	opts.ConnectTimeout = check.Timeout
	blind := func(n upstream.Network) bool { return n == upstream.UDP && len(check.Send) == 0 }
	return &healthChecker{relay: New(r.service, opts), check: check, networks: slices.DeleteFunc(slices.Clone(check.Networks), blind)}
}

// backends are those of the queue, as it is now.
func (c *healthChecker) backends() []*upstream.Backend {
	list := c.relay.service.Pool.Snapshot(time.Now())
	backends := make([]*upstream.Backend, len(list))
	for i, s := range list {
		backends[i] = s.Backend
	}
	return backends
}

// attend begins with a backend. What it gives is one probe, with what came of
// it, and is called by one goroutine.
func (c *healthChecker) attend(b *upstream.Backend) func(context.Context) {
	p := &patient{checker: c, backend: b, demotions: b.Demotions()}
	return p.probe
}

// patient is a backend with what its probes have found.
type patient struct {
	checker *healthChecker
	backend *upstream.Backend

	run       int    // probes in a row that found it well
	demotions uint64 // of the backend, when run began
}

func (p *patient) probe(ctx context.Context) {
	c, b := p.checker, p.backend
	if !c.probe(ctx, b) {
		p.run = 0
		return
	}
	// Clients may have met what the probes have not.
	if demotions := b.Demotions(); demotions != p.demotions {
		p.run, p.demotions = 0, demotions
	}
	p.run++
	if c.check.Failback && p.run >= c.check.Rise {
		c.relay.logOrder(c.relay.service.failback(b))
	}
}

// probe says whether the backend was well on all networks.
func (c *healthChecker) probe(ctx context.Context, b *upstream.Backend) bool {
	well := make([]bool, len(c.networks))
	var all sync.WaitGroup
	for i, n := range c.networks {
		all.Go(func() { well[i] = c.probeOn(ctx, b, n) }) // ends with its attempts, or ctx
	}
	all.Wait()
	return !slices.Contains(well, false)
}

// probeOn is one probe on one network: an attempt, and where a client would
// make a second one, that too. A backend that needed it was not well.
func (c *healthChecker) probeOn(ctx context.Context, b *upstream.Backend, n upstream.Network) (well bool) {
	r := c.relay
	defer func() {
		if p := recover(); p != nil {
			r.log.Error("health check panicked", zap.Stringer("network", n), zap.String("backend", b.Text), zap.Any("error", p), zap.ByteString("stack", debug.Stack()))
		}
	}()
	walk := r.service.Pool.Probe(b, n)
	var q query
	for a, ok := walk.Next(time.Now()); ok; a, ok = walk.Again(a, time.Now()) {
		o := c.attempt(ctx, a, n, q)
		if o.err == nil {
			r.recordSuccess(&walk, o, n, healthCheckSource{}, time.Now(), false)
			return !a.Second()
		}
		if ctx.Err() != nil {
			return false // by our own end: nothing is known
		}
		verdict, change := r.recordFailure(&walk, o, n, healthCheckSource{})
		if change.Demoted && n == upstream.UDP {
			r.service.sessions.leave(b)
		}
		if verdict == upstream.Next {
			return false
		}
		q = o.again(verdict)
	}
	return false
}

// attempt is one try of a backend: lookup, and what the check asks of it.
func (c *healthChecker) attempt(ctx context.Context, a upstream.Attempt, n upstream.Network, q query) (o outcome) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.check.Timeout, errHealthTimeout)
	defer cancel()
	o.attempt = a
	o.tried, o.err = c.relay.resolve(ctx, a.Backend, n, q)
	o.since = time.Now()
	switch {
	case o.err != nil:
	case n == upstream.UDP:
		o.addr, o.err = c.check.probeUDP(ctx, o.tried, a.Backend.Port)
	default:
		o.addr, o.err = c.check.probeTCP(ctx, o.tried, a.Backend.Port)
	}
	o.took = time.Since(a.Began)
	return o
}
