package resolver

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxEntries limits the memory of a Cache.
	maxEntries = 10_000

	// failureMemory is how long Lookup returns a failure without a new query, so that a DNS outage
	// does not cause a storm of queries.
	failureMemory = 5 * time.Second

	// refreshFailureMemory is how long Refresh returns a failure without a new query. It is long
	// enough that all clients of a backend that just died share one failure. It is short, because
	// a failed attempt calls for a current answer.
	refreshFailureMemory = time.Second
)

// Config holds the settings of a Cache.
type Config struct {
	// Lifetime returns the lifetime of the entries. Default: one hour.
	Lifetime Lifetime

	// Lookup queries the addresses of host, which is in lower case. A dot at its end
	// means that search domains do not apply. It must return when ctx ends, and may
	// be called concurrently. Required.
	Lookup func(ctx context.Context, host string) (Result, error)

	// Observer is notified of results. Default: none.
	Observer Observer

	// Counts counts the queries. Caches may share one. Default: none.
	Counts *Counts
}

// Result is the result of a query.
type Result struct {
	Addrs []netip.Addr
	TTL   time.Duration // least TTL of the records; 0: unknown

	// Partial reports that only one address family was answered. The addresses of
	// the other one are then kept, and the entry lives for 30 s at most.
	Partial bool
}

// Counts counts queries by their result, including those of the background. It does not count
// answers from memory, nor queries that [Cache.Close] ended. The zero value is ready for use.
type Counts struct {
	OK     atomic.Uint64 // answered
	Stale  atomic.Uint64 // failed, old addresses kept
	Failed atomic.Uint64 // failed, no old addresses
}

// Observer is notified of the results that an operator wants in the log. Its methods are called
// without locks held, possibly concurrently. They must not call [Cache.Close], which waits for
// them, and must not modify the addresses.
type Observer interface {
	// Resolved reports the first answer for a name.
	Resolved(host string, addrs []netip.Addr)

	// Changed reports an answer with other addresses than the previous one. Their order is
	// ignored.
	Changed(host string, old, new []netip.Addr)

	// Ignored reports that addresses of an answer are not used: unusable ones, which no backend can
	// have, and surplus ones, which are those after the first 32. It is called once, and again only
	// after an answer of which all addresses were used. unusable lists at most 32 addresses.
	Ignored(host string, unusable []netip.Addr, surplus int)

	// Stale reports that a query failed and that the old answer, resolved age ago, is kept. It is
	// called once per outage of a name, and again at most every [Lifetime.Longest].
	Stale(host string, addrs []netip.Addr, age time.Duration, err error)

	// Failed reports that a query failed and that there is no old answer. It is called once per
	// outage of a name.
	Failed(host string, err error)
}

// Answer holds the addresses of a name.
type Answer struct {
	// Addrs lists the addresses in the order to try them: at most 32, without duplicates, IPv4-mapped
	// ones as IPv4, families interleaved (RFC 8305 section 4). It is shared and must not be modified.
	Addrs []netip.Addr

	// Stale reports whether the addresses are older than allowed. They are then returned because
	// there is no newer answer.
	Stale bool

	// ResolvedAt is the time of the query that returned the addresses.
	ResolvedAt time.Time
}

// Cache caches the addresses of names. It is safe for concurrent use. Create it with [New].
type Cache struct {
	// Set once by New.
	lifetime Lifetime
	lookup   func(ctx context.Context, host string) (Result, error)
	observer Observer // may be nil
	counts   *Counts
	created  time.Time // entry.used is relative to this
	ctx      context.Context
	cancel   context.CancelFunc
	wake     chan struct{} // tells refreshLoop that c.due or c.refreshing changed

	running sync.WaitGroup // refreshLoop and all flights

	// mu is not held during queries and calls of the observer. A hit locks it for reading only.
	mu         sync.RWMutex
	entries    map[string]*entry
	due        dueHeap        // all entries except those in flight
	held       map[string]int // number of holds by name
	refreshing int            // number of background flights
	closed     bool
}

// New returns a Cache, which sends its first query at the first lookup. The caller must close it.
func New(cfg Config) *Cache {
	c := &Cache{
		lifetime: cfg.Lifetime.orDefault(),
		lookup:   cfg.Lookup,
		observer: cfg.Observer,
		counts:   cfg.Counts,
		created:  time.Now(),
		wake:     make(chan struct{}, 1),
		entries:  make(map[string]*entry),
		held:     make(map[string]int),
	}
	if c.counts == nil {
		c.counts = new(Counts)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.running.Go(c.refreshLoop)
	return c
}

// Close ends the background refresh and all queries in flight, and waits for their goroutines.
// Callers that wait for a query get stale addresses or an error. A closed Cache still returns
// cached answers, but sends no queries.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.running.Wait()
}

// Cached returns the answer if a fresh entry is cached, that is, one within its lifetime and not
// dropped by [Cache.Refresh] or [Cache.Flush]. It neither queries nor waits, takes no exclusive lock
// and, for a name, does not allocate. A hit marks the name as used. The answer for an IP address is
// the address itself.
func (c *Cache) Cached(host string) (Answer, bool) {
	if answer, ok := c.hit(normalize(host)); ok {
		return answer, true
	}
	return literal(host)
}

// hit returns the fresh entry of a normalized name and marks it as used.
func (c *Cache) hit(name string) (Answer, bool) {
	now := time.Now()
	c.mu.RLock()
	defer c.mu.RUnlock()
	e := c.entries[name]
	if e == nil || !e.fresh(now) {
		return Answer{}, false
	}
	c.markUsed(e, now)
	return e.answer(now), true
}

// Lookup returns the cached answer like [Cache.Cached], or queries DNS. Concurrent lookups of one
// name share one query, which continues if their contexts end.
//
// If old addresses are cached, Lookup returns them (Stale) when the query fails or takes longer than
// patience, counted from the start of the query. Otherwise it waits until the query or ctx ends. For
// 5 s after a failed query, Lookup returns the old addresses or that failure at once.
//
// Errors read "lookup NAME: reason". They wrap the [net.DNSError], if there is one, or the cause of
// the end of ctx.
func (c *Cache) Lookup(ctx context.Context, host string, patience time.Duration) (Answer, error) {
	if answer, ok := c.Cached(host); ok {
		return answer, nil
	}
	return c.resolve(ctx, normalize(host), patience, time.Time{}, failureMemory)
}

// Refresh looks host up after a failed attempt that began at since. If the entry was resolved after
// since, Refresh returns it. Otherwise it makes the entry stale and queries DNS or joins a query in
// flight. If a query failed less than a second ago, it returns the old addresses or that failure
// instead. patience and errors are those of [Cache.Lookup].
func (c *Cache) Refresh(ctx context.Context, host string, since time.Time, patience time.Duration) (Answer, error) {
	if answer, ok := literal(host); ok {
		return answer, nil
	}
	return c.resolve(ctx, normalize(host), patience, since, refreshFailureMemory)
}

// resolve returns an entry resolved after since, a failure younger than memory, or the result of a
// query. Lookup passes a zero since, for which any fresh entry is new enough.
func (c *Cache) resolve(ctx context.Context, name string, patience time.Duration, since time.Time, memory time.Duration) (Answer, error) {
	now := time.Now()
	c.mu.Lock()
	e := c.entries[name]
	if e == nil {
		if c.closed {
			c.mu.Unlock()
			return Answer{}, newLookupError(name, errClosed)
		}
		e = c.addLocked(name, now)
	}
	c.markUsed(e, now)
	if !e.resolvedAt.After(since) {
		e.drop(now)
	}
	old := e.answer(now)
	var err error
	var f *flight
	switch {
	case e.fresh(now):
	case c.closed:
		err = newLookupError(name, errClosed)
	case e.failedWithin(now, memory):
		err = e.err
	case e.flight != nil:
		f = e.flight
	default:
		f = c.startLocked(e, now, false)
	}
	c.mu.Unlock()

	if f != nil {
		return f.wait(ctx, name, old, patience-now.Sub(f.started))
	}
	if len(old.Addrs) > 0 {
		return old, nil
	}
	return Answer{}, err
}

// Hold keeps names fresh in the background even if they are not used, once they have been resolved.
// It sends no query itself. Holds are counted, and each requires one [Cache.Release].
func (c *Cache) Hold(hosts ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, host := range hosts {
		c.held[normalize(host)]++
	}
}

// Release undoes one [Cache.Hold] of each of the names.
func (c *Cache) Release(hosts ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, host := range hosts {
		name := normalize(host)
		if c.held[name]--; c.held[name] <= 0 {
			delete(c.held, name)
		}
	}
}
