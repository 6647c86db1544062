package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// flightTimeout is the time limit of one query.
const flightTimeout = 10 * time.Second

// flight is one query for one name. All callers that wait for it share the result.
type flight struct {
	started    time.Time
	background bool // started by refreshLoop and counted in Cache.refreshing

	done chan struct{} // closed at the end

	// Set before done is closed and not changed afterwards.
	answer Answer
	err    error
}

// startLocked starts a query for e. e must not be in flight and the Cache must not be closed. The
// flight has its own goroutine, because it must outlive the callers that wait for it. It ends with
// the query, after flightTimeout, or with Close.
func (c *Cache) startLocked(e *entry, now time.Time, background bool) *flight {
	f := &flight{started: now, background: background, done: make(chan struct{})}
	e.flight = f
	c.due.remove(e)
	if background {
		c.refreshing++
	}
	c.running.Go(func() { c.run(e, f) })
	return f
}

// run queries DNS and finishes the flight, even if the lookup function panics or ends its goroutine.
func (c *Cache) run(e *entry, f *flight) {
	var result Result
	var err error
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
		c.finish(e, f, result, err)
	}()
	ctx, cancel := context.WithTimeout(c.ctx, flightTimeout)
	defer cancel()
	result, err = c.lookup(ctx, e.name)
}

// finish ends a flight. It updates the entry, wakes the waiting callers and notifies the observer.
func (c *Cache) finish(e *entry, f *flight, result Result, err error) {
	var notify, ignored func(Observer)
	now := time.Now()
	c.mu.Lock()
	answered := result.Addrs
	if result.Partial {
		answered = withMissingFamily(answered, e.addrs)
	}
	addrs, unusable, surplus := tidy(answered, e.addrs)
	e.flight = nil
	if f.background {
		c.refreshing--
	}
	switch {
	case err == nil && len(addrs) > 0:
		c.counts.OK.Add(1)
		life := c.lifetime.Of(result.TTL)
		if result.Partial {
			life = min(life, partialLifetime)
		}
		notify = c.succeededLocked(e, now, addrs, life)
		ignored = e.ignoredLocked(unusable, surplus)
		e.due = now.Add(untilRefresh(life))
	case c.closed:
		// Close ended the query, so this is not an outage of the name.
		f.err = newLookupError(e.name, errClosed)
		e.due = now.Add(e.life)
	default:
		if err == nil {
			err = noAddresses(e.name, unusable)
		}
		f.err = newLookupError(e.name, err)
		notify = c.failedLocked(e, now, f.err)
		e.due = now.Add(e.life)
		if e.addrs != nil {
			e.due = now.Add(pauseAfterFailure(e.life))
		}
	}
	if e.addrs != nil {
		f.answer, f.err = e.answer(now), nil
	}
	c.due.add(e)
	c.mu.Unlock()

	close(f.done)
	select {
	case c.wake <- struct{}{}:
	default: // refreshLoop is already awake
	}
	for _, call := range []func(Observer){notify, ignored} {
		if call != nil && c.observer != nil {
			call(c.observer)
		}
	}
}

// ignoredLocked records whether addresses of a good answer are not used. It returns the call of the
// observer to make after unlocking, or nil.
func (e *entry) ignoredLocked(unusable []netip.Addr, surplus int) func(Observer) {
	before, name := e.ignored, e.name
	e.ignored = len(unusable) > 0 || surplus > 0
	if before || !e.ignored {
		return nil
	}
	return func(o Observer) { o.Ignored(name, unusable, surplus) }
}

// succeededLocked stores a good answer in e. It returns the call of the observer to make after
// unlocking, or nil.
func (c *Cache) succeededLocked(e *entry, now time.Time, addrs []netip.Addr, life time.Duration) func(Observer) {
	name, old := e.name, e.addrs
	e.addrs, e.life = addrs, life
	e.resolvedAt, e.expiresAt = now, now.Add(life)
	e.err, e.failedAt, e.reportedAt = nil, time.Time{}, time.Time{}
	switch {
	case old == nil:
		return func(o Observer) { o.Resolved(name, addrs) }
	case !sameSet(old, addrs):
		return func(o Observer) { o.Changed(name, old, addrs) }
	}
	return nil
}

// failedLocked stores a failure in e. It returns the call of the observer to make after unlocking, or
// nil.
func (c *Cache) failedLocked(e *entry, now time.Time, err error) func(Observer) {
	name, addrs, age := e.name, e.addrs, now.Sub(e.resolvedAt)
	e.err, e.failedAt = err, now
	if addrs == nil {
		c.counts.Failed.Add(1)
	} else {
		c.counts.Stale.Add(1)
	}
	first := e.reportedAt.IsZero()
	switch {
	case addrs == nil && first:
		e.reportedAt = now
		return func(o Observer) { o.Failed(name, err) }
	case addrs != nil && (first || now.Sub(e.reportedAt) >= c.lifetime.Longest()):
		e.reportedAt = now
		return func(o Observer) { o.Stale(name, addrs, age, err) }
	}
	return nil
}

// wait returns the result of the flight. If old has addresses, it returns old once patience has
// passed.
func (f *flight) wait(ctx context.Context, name string, old Answer, patience time.Duration) (Answer, error) {
	var tooLate <-chan time.Time // never ready without an old answer
	if len(old.Addrs) > 0 {
		if patience <= 0 {
			return old, nil
		}
		tooLate = time.After(patience)
	}
	select {
	case <-f.done:
		return f.answer, f.err
	case <-tooLate:
		return old, nil
	case <-ctx.Done():
		return Answer{}, newLookupError(name, context.Cause(ctx))
	}
}
