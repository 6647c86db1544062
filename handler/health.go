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

// HealthCheck configures how the backends of a service are probed, and when a
// demoted backend is moved back. Its durations must be positive.
type HealthCheck struct {
	Interval time.Duration // from the start of one probe of a backend to the next, plus or minus a tenth
	Timeout  time.Duration // of one attempt, lookup included; a probe makes a second attempt where a client would

	// What a probe does. If Send, Expect and HTTP are empty, TCP is probed by a
	// connect alone and UDP is not probed.
	Port   uint16     // to probe; 0: that of the backend
	Send   []byte     // sent to the backend
	Framed bool       // over TCP, two bytes of length precede Send, as in DNS
	Expect [][]byte   // one of them must occur in the answer; empty: any answer to Send passes
	HTTP   *HTTPProbe // a request over TCP, whatever the probed network is; nil: none
	PROXY  ProxyProtocol

	Networks []upstream.Network // to probe
	Failback bool               // move a demoted backend back to its configured position
	Move     bool               // a failback takes the clients of the backends behind it away from them
	Rise     int                // successful probes in a row before a failback
}

// exchanges reports whether a probe exchanges data with the backend, and does not
// only connect to it.
func (c *HealthCheck) exchanges() bool {
	return len(c.Send) > 0 || len(c.Expect) > 0 || c.HTTP != nil
}

// Probes reports whether the check can probe a network. Over UDP only an answer
// proves anything.
func (c *HealthCheck) Probes(n upstream.Network) bool {
	return slices.Contains(c.Networks, n) && (n == upstream.TCP || len(c.Send) > 0 || c.HTTP != nil)
}

// evidence returns what a result of the check proves.
func (c *HealthCheck) evidence() upstream.Evidence {
	if c.exchanges() {
		return upstream.Works
	}
	return upstream.Listens
}

// Condemns reports whether the check exchanges data on a network. What such a
// check condemns recovers only by a check, so without one the caller must call
// [upstream.Pool.ForgetChecks]. c may be nil.
func (c *HealthCheck) Condemns(n upstream.Network) bool {
	return c != nil && c.Probes(n) && c.exchanges()
}

// healthCheckName stands in the log and the journal where a client's address
// does otherwise.
const healthCheckName = "health check"

// healthCheckSource is the client of a probe's attempt.
type healthCheckSource struct{}

func (healthCheckSource) String() string { return healthCheckName }

var errHealthTimeout = errors.New("health check timeout")

// CheckHealth probes the backends of the service, also those that are down or
// drained, and records the results like those of clients' attempts. It follows
// the queue through reloads. It returns when ctx has ended and the last probe
// with it, or at once if no network can be probed.
func (r *Relay) CheckHealth(ctx context.Context, check HealthCheck) {
	c := newHealthChecker(r, check)
	if len(c.networks) == 0 {
		return
	}
	r.service.checker.Store(c)
	defer r.service.checker.CompareAndSwap(c, nil)
	s := schedule{interval: check.Interval, backends: c.backends, start: c.start}
	s.run(ctx)
}

// healthChecker runs the health check of a service. Its fields are set once.
type healthChecker struct {
	relay    *Relay
	check    HealthCheck
	networks []upstream.Network // without those that cannot be probed
}

func newHealthChecker(r *Relay, check HealthCheck) *healthChecker {
	// The check's own timeout also bounds how long a lookup may take before a
	// stale answer is used (Relay.patience).
	opts := r.opts
	opts.ConnectTimeout = check.Timeout
	unprobeable := func(n upstream.Network) bool { return !check.Probes(n) }
	return &healthChecker{relay: New(r.service, opts), check: check, networks: slices.DeleteFunc(slices.Clone(check.Networks), unprobeable)}
}

// backends returns the backends in the queue.
func (c *healthChecker) backends() []*upstream.Backend {
	list := c.relay.service.Pool.Snapshot(time.Now())
	backends := make([]*upstream.Backend, len(list))
	for i, s := range list {
		backends[i] = s.Backend
	}
	return backends
}

// start returns a function that probes the backend once and records the result.
// The function must not be called concurrently.
func (c *healthChecker) start(b *upstream.Backend) (probe func(context.Context)) {
	t := &target{checker: c, backend: b, demotions: b.Demotions()}
	return t.probe
}

// target is a probed backend. It counts the successes that a failback requires.
type target struct {
	checker *healthChecker
	backend *upstream.Backend

	streak    int    // successful probes in a row
	demotions uint64 // of the backend, when the streak began
}

// probe probes the backend once, and moves it back when its streak is long
// enough.
func (t *target) probe(ctx context.Context) {
	c, b := t.checker, t.backend
	if !c.probe(ctx, b) {
		t.streak = 0
		return
	}
	// A demotion by clients between two successful probes ends the streak too.
	if demotions := b.Demotions(); demotions != t.demotions {
		t.streak, t.demotions = 0, demotions
	}
	t.streak++
	if c.check.Failback && t.streak >= c.check.Rise {
		change := c.relay.service.failback(b)
		c.relay.logOrder(change)
		if change.Order != nil && c.check.Move {
			c.relay.leaveBehind(b)
		}
	}
}

// probe probes the backend on all networks in parallel, and reports whether it
// is healthy on each.
func (c *healthChecker) probe(ctx context.Context, b *upstream.Backend) bool {
	healthy := make([]bool, len(c.networks))
	var all sync.WaitGroup
	for i, n := range c.networks {
		all.Go(func() { healthy[i] = c.probeOn(ctx, b, n) }) // ends with its attempts, or ctx
	}
	all.Wait()
	return !slices.Contains(healthy, false)
}

// probeOn probes the backend on one network: it makes one attempt, and a second
// one where a client would. It reports whether the first attempt succeeded.
func (c *healthChecker) probeOn(ctx context.Context, b *upstream.Backend, n upstream.Network) (healthy bool) {
	r := c.relay
	defer func() {
		if p := recover(); p != nil {
			r.log.Error("health check panicked", zap.Stringer("network", n), zap.String("backend", b.Text), zap.Any("error", p), zap.ByteString("stack", debug.Stack()))
		}
	}()
	walk := r.service.Pool.Probe(b, n, c.check.evidence())
	var q query
	for a, ok := walk.Next(time.Now()); ok; a, ok = walk.Again(a, time.Now()) {
		o := c.attempt(ctx, a, n, q)
		if o.err == nil {
			r.recordSuccess(&walk, o, n, healthCheckSource{}, time.Now(), false)
			return !a.Second()
		}
		if ctx.Err() != nil {
			return false // the check was ended; that proves nothing about the backend
		}
		verdict, change := r.recordFailure(&walk, o, n, healthCheckSource{})
		if change.Demoted && n == upstream.UDP {
			r.service.sessions.leaveDemoted(b)
		}
		if verdict == upstream.Next {
			return false
		}
		q = o.again(verdict)
		select {
		case <-time.After(r.service.rebinds.gapOf(n, o.err)):
		case <-ctx.Done():
			return false
		}
	}
	return false
}

// recheck probes a condemned backend on TCP on behalf of held clients, which do not
// wait for the next probe. Its failures are not recorded.
func (c *healthChecker) recheck(ctx context.Context, b *upstream.Backend) {
	walk := c.relay.service.Pool.Probe(b, upstream.TCP, c.check.evidence())
	a, _ := walk.Next(time.Now())
	if o := c.attempt(ctx, a, upstream.TCP, recheckQuery(a)); o.err == nil {
		c.relay.recordSuccess(&walk, o, upstream.TCP, healthCheckSource{}, time.Now(), true)
	}
}

// attempt makes one attempt: the lookup, then the check of the addresses.
func (c *healthChecker) attempt(ctx context.Context, a upstream.Attempt, n upstream.Network, q query) (o outcome) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.check.Timeout, errHealthTimeout)
	defer cancel()
	o.attempt = a
	o.tried, o.err = c.relay.resolve(ctx, a.Backend, n, q)
	o.since, o.port = time.Now(), c.check.ProbedPort(a.Backend.Port)
	addrs := o.tried
	if over := upstream.TCP; o.err == nil {
		if c.check.overUDP(n) {
			over = upstream.UDP
		}
		addrs, o.err = c.relay.withoutOwn(over, o.tried, o.port)
	}
	if o.err == nil {
		o.err = c.relay.service.drills.of(a.Backend).probe(ctx)
	}
	switch {
	case o.err != nil:
	case c.check.overUDP(n):
		o.addr, o.err = c.check.probeUDP(ctx, addrs, o.port)
	default:
		o.addr, o.err = c.check.probeTCP(ctx, addrs, o.port)
	}
	o.took = time.Since(a.Began)
	return o
}
