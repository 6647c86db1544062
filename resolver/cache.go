package resolver

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	defaultTTL = time.Hour

	// maxEntries bounds the memory of a Cache.
	maxEntries = 10_000

	// failureMemory is how long a failure answers for the name, so that an outage of DNS is not
	// a storm of queries.
	failureMemory = 5 * time.Second

	// refreshFailureMemory is the same for Refresh: the many clients that hit one dead backend
	// together share one failure, yet a failure from before is no answer to a strike.
	refreshFailureMemory = time.Second
)

// Config says how a Cache asks and how long it remembers.
type Config struct {
	// TTL is the life of an entry. Default: 1 h (also for values of zero and less).
	TTL time.Duration

	// Servers are the DNS servers to ask instead of the system's resolver. Empty: the system's.
	//
	// Names are then asked as written, as if they ended in a dot: the search domains of the host
	// do not apply. (nginx's resolver directive behaves so too.) The hosts file of the host still
	// does. Servers are asked over UDP, and over TCP when an answer is truncated. The first is
	// asked first; the next one follows at once when it fails, or alongside when it has not
	// answered within a second. The first good answer, or the first "no such host", counts.
	Servers []netip.AddrPort

	// Lookup asks for the addresses of host. It must return when ctx ends, and may be called
	// concurrently. Default: made from Servers.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

	// Observer is told what happens. Default: nobody is.
	Observer Observer

	// Counts counts the queries. Caches may share one. Default: nobody counts.
	Counts *Counts
}

// Counts counts queries by what they came to, those of the background included. An answer from
// memory is no query, nor is one that the end of a Cache cut short. The zero value is ready for
// use.
type Counts struct {
	OK     atomic.Uint64 // there was an answer
	Stale  atomic.Uint64 // there was none, and the old addresses stay
	Failed atomic.Uint64 // there was none, and there are no old addresses
}

// Observer is told what an operator wants to read. Its methods are called without any lock held,
// possibly concurrently. They must not call [Cache.Close], which waits for them, and must not
// modify the addresses.
type Observer interface {
	// Resolved tells the first answer for a name.
	Resolved(host string, addrs []netip.Addr)

	// Changed tells an answer that differs from the one before, whatever their order.
	Changed(host string, old, new []netip.Addr)

	// Stale tells that asking again failed and that the old answer, resolved age ago, is kept.
	// Told once per outage of a name, and again at most every TTL.
	Stale(host string, addrs []netip.Addr, age time.Duration, err error)

	// Failed tells that asking failed and that there is nothing to serve. Told once per outage
	// of a name.
	Failed(host string, err error)
}

// Answer is what the Cache knows of a name.
type Answer struct {
	// Addrs are the addresses in the order to try them: without duplicates, IPv4-mapped ones as
	// IPv4, families interleaved (RFC 8305 section 4). Shared: it must not be modified.
	Addrs []netip.Addr

	// Stale says that the addresses are old ones, given because there are no newer ones yet.
	Stale bool

	// ResolvedAt is when the addresses were learnt.
	ResolvedAt time.Time
}

// Cache remembers the addresses of names. It is safe for concurrent use. Make it with [New].
type Cache struct {
	// Set once by New.
	ttl      time.Duration
	servers  []netip.AddrPort
	lookup   askFunc
	observer Observer // may be nil
	counts   *Counts
	born     time.Time // what entry.used counts from
	ctx      context.Context
	cancel   context.CancelFunc
	wake     chan struct{} // tells keepFresh that c.due or c.refreshing changed

	running sync.WaitGroup // keepFresh and all flights

	// mu is never held while asking or telling. A hit takes it for reading only.
	mu         sync.RWMutex
	entries    map[string]*entry
	due        dueHeap        // all entries but those in flight
	held       map[string]int // how many hold a name
	refreshing int            // background flights
	closed     bool
}

// New makes a Cache, which asks nothing until it is asked. The caller must Close it.
func New(cfg Config) *Cache {
	c := &Cache{
		ttl:      cfg.TTL,
		servers:  cfg.Servers,
		lookup:   cfg.Lookup,
		observer: cfg.Observer,
		counts:   cfg.Counts,
		born:     time.Now(),
		wake:     make(chan struct{}, 1),
		entries:  make(map[string]*entry),
		held:     make(map[string]int),
	}
	if c.ttl <= 0 {
		c.ttl = defaultTTL
	}
	if c.lookup == nil {
		c.lookup = askSystem
		if len(cfg.Servers) > 0 {
			c.lookup = newAsker(cfg.Servers).lookup
		}
	}
	if c.counts == nil {
		c.counts = new(Counts)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.running.Go(c.keepFresh)
	return c
}

// TTL is the life of an entry.
func (c *Cache) TTL() time.Duration { return c.ttl }

// Servers are the DNS servers that are asked instead of the system's resolver; they must not be
// modified.
func (c *Cache) Servers() []netip.AddrPort { return c.servers }

// askSystem asks the way every other program on the host does.
func askSystem(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// Close ends the background refresh and all lookups in flight, and waits for their goroutines.
// Those who wait for a lookup get stale addresses or an error. Afterwards the Cache answers from
// what it has and asks no more.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.running.Wait()
}

// Cached answers from the cache alone: it neither asks nor waits. It is false unless there is a
// fresh entry: one not older than the TTL, and not dropped by [Cache.Refresh] or [Cache.Flush].
// An answer marks the name as used. For a name this takes no exclusive lock and does not allocate.
// An IP address is its own answer.
func (c *Cache) Cached(host string) (Answer, bool) {
	if answer, ok := c.hit(normalize(host)); ok {
		return answer, true
	}
	return literal(host)
}

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

// Lookup answers from the cache like [Cache.Cached], and else asks. All who miss a name at one
// time share one query, which runs on when they leave.
//
// Where old addresses are at hand, they are the answer (Stale) when the query fails or when it
// takes longer than patience, counted from its start. Without them Lookup waits until the query or
// ctx ends. For 5 s after a failed query Lookup answers at once: with the old addresses, or with
// that failure.
//
// Errors read "lookup NAME: reason". They wrap the [net.DNSError], where there is one, or the
// cause of ctx's end.
func (c *Cache) Lookup(ctx context.Context, host string, patience time.Duration) (Answer, error) {
	if answer, ok := c.Cached(host); ok {
		return answer, nil
	}
	return c.resolve(ctx, normalize(host), patience, time.Time{}, failureMemory)
}

// Refresh is the lookup after a failed attempt that began at since: unless the entry was resolved
// after that, it is dropped (its addresses are old ones from then on) and asked for anew. A query in
// flight is joined. A failure younger than a second is taken as the answer: the old addresses, or
// that failure. Patience and errors are those of [Cache.Lookup].
func (c *Cache) Refresh(ctx context.Context, host string, since time.Time, patience time.Duration) (Answer, error) {
	if answer, ok := literal(host); ok {
		return answer, nil
	}
	return c.resolve(ctx, normalize(host), patience, since, refreshFailureMemory)
}

// resolve answers with an entry resolved after since, a failure younger than memory, or what a
// flight brings. Lookup is the case of no since: then any fresh entry will do.
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

// Hold keeps names fresh in the background, used or not, from the first time they are resolved. It
// asks nothing itself. Holds are counted: each needs one [Cache.Release].
func (c *Cache) Hold(hosts ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, host := range hosts {
		c.held[normalize(host)]++
	}
}

// Release takes back one [Cache.Hold] of each of the names.
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
