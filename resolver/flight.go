package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// flightTimeout bounds one query, whoever waits for it.
const flightTimeout = 10 * time.Second

// flight is one query for one name, shared by all who wait for it.
type flight struct {
	started    time.Time
	background bool // asked for by keepFresh: it counts in Cache.refreshing

	done chan struct{} // closed at the end

	// Set before done is closed, not changed afterwards.
	answer Answer
	err    error
}

// startLocked asks for e, which must not be in flight; the Cache must not be closed. The flight has
// a goroutine of its own, because it must outlive those who wait for it. It ends with the query, at
// the latest with flightTimeout or Close.
func (c *Cache) startLocked(e *entry, now time.Time, background bool) *flight {
	f := &flight{started: now, background: background, done: make(chan struct{})}
	e.flight = f
	c.due.remove(e)
	if background {
		c.refreshing++
	}
	c.running.Go(func() { c.fly(e, f) })
	return f
}

// fly asks, and lands whatever the lookup function does: return, panic or end its goroutine.
func (c *Cache) fly(e *entry, f *flight) {
	var addrs []netip.Addr
	var err error
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
		c.land(e, f, tidy(addrs), err)
	}()
	ctx, cancel := context.WithTimeout(c.ctx, flightTimeout)
	defer cancel()
	addrs, err = c.lookup(ctx, e.name)
}

// land ends a flight: it updates the entry, lets the waiters go and tells the observer.
func (c *Cache) land(e *entry, f *flight, addrs []netip.Addr, err error) {
	var news func(Observer)
	now := time.Now()
	c.mu.Lock()
	e.flight = nil
	if f.background {
		c.refreshing--
	}
	switch {
	case err == nil && len(addrs) > 0:
		c.counts.OK.Add(1)
		news = c.succeededLocked(e, now, addrs)
		e.due = c.dueAfterAnswer(now)
	case c.closed:
		// The end of the Cache is no outage of the name.
		f.err = newLookupError(e.name, errClosed)
		e.due = now.Add(c.ttl)
	default:
		if err == nil {
			err = noAddresses(e.name)
		}
		f.err = newLookupError(e.name, err)
		news = c.failedLocked(e, now, f.err)
		e.due = c.dueAfterFailure(e, now)
	}
	if e.addrs != nil {
		f.answer, f.err = e.answer(now), nil
	}
	c.due.add(e)
	c.mu.Unlock()

	close(f.done)
	select {
	case c.wake <- struct{}{}:
	default: // it is awake
	}
	if news != nil && c.observer != nil {
		news(c.observer)
	}
}

// succeededLocked takes a good answer into e, and returns what to tell of it.
func (c *Cache) succeededLocked(e *entry, now time.Time, addrs []netip.Addr) func(Observer) {
	name, old := e.name, e.addrs
	e.addrs = addrs
	e.resolvedAt, e.expiresAt = now, now.Add(c.ttl)
	e.err, e.failedAt, e.toldAt = nil, time.Time{}, time.Time{}
	switch {
	case old == nil:
		return func(o Observer) { o.Resolved(name, addrs) }
	case !sameSet(old, addrs):
		return func(o Observer) { o.Changed(name, old, addrs) }
	}
	return nil
}

// failedLocked takes a failure into e, and returns what to tell of it.
func (c *Cache) failedLocked(e *entry, now time.Time, err error) func(Observer) {
	name, addrs, age := e.name, e.addrs, now.Sub(e.resolvedAt)
	e.err, e.failedAt = err, now
	if addrs == nil {
		c.counts.Failed.Add(1)
	} else {
		c.counts.Stale.Add(1)
	}
	first := e.toldAt.IsZero()
	switch {
	case addrs == nil && first:
		e.toldAt = now
		return func(o Observer) { o.Failed(name, err) }
	case addrs != nil && (first || now.Sub(e.toldAt) >= c.ttl):
		e.toldAt = now
		return func(o Observer) { o.Stale(name, addrs, age, err) }
	}
	return nil
}

// wait returns what the flight brings, or the old answer, if there is one, when patience is over.
func (f *flight) wait(ctx context.Context, name string, old Answer, patience time.Duration) (Answer, error) {
	var enough <-chan time.Time // never, without an old answer
	if len(old.Addrs) > 0 {
		if patience <= 0 {
			return old, nil
		}
		enough = time.After(patience)
	}
	select {
	case <-f.done:
		return f.answer, f.err
	case <-enough:
		return old, nil
	case <-ctx.Done():
		return Answer{}, newLookupError(name, context.Cause(ctx))
	}
}
