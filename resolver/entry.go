package resolver

import (
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// entry is what a Cache knows of one name. See the package comment for its life.
type entry struct {
	name string

	// used is when the name was last asked for, in ns since Cache.born. See Cache.markUsed.
	used atomic.Int64

	// Guarded by Cache.mu.
	addrs      []netip.Addr // the last good answer; nil before the first; never modified
	resolvedAt time.Time    // when addrs were learnt
	expiresAt  time.Time    // fresh until then
	err        error        // why the last query failed; nil if it did not
	failedAt   time.Time    // when it failed; zero: no failure to answer with
	toldAt     time.Time    // when Observer was last told of this outage; zero: not
	flight     *flight      // the query in flight, if any
	due        time.Time    // when keepFresh is to look at it; not while in flight
	index      int          // its place in Cache.due; -1: not in there
}

// Entry is the state of one name, for status pages.
type Entry struct {
	Host       string       // lower case, without trailing dot
	Addrs      []netip.Addr // empty if the name never resolved; must not be modified
	ResolvedAt time.Time    // when Addrs were learnt
	ExpiresAt  time.Time    // when they became stale or will; that moment, if they were dropped
	Stale      bool         // Addrs are old ones: expired or dropped
	Err        error        // why the last query failed; nil if it did not
}

func (e *entry) fresh(now time.Time) bool { return now.Before(e.expiresAt) }

func (e *entry) failedWithin(now time.Time, memory time.Duration) bool {
	return !e.failedAt.IsZero() && now.Sub(e.failedAt) < memory
}

// answer is the last good answer, with no addresses if there was none.
func (e *entry) answer(now time.Time) Answer {
	return Answer{Addrs: e.addrs, Stale: !e.fresh(now), ResolvedAt: e.resolvedAt}
}

// drop makes the addresses old ones.
func (e *entry) drop(now time.Time) {
	if e.fresh(now) {
		e.expiresAt = now
	}
}

// markUsed notes that the name was asked for. Only 1 % of the TTL or more is worth a write: that
// spares the cores that answer for one name at once the fight for its cache line.
func (c *Cache) markUsed(e *entry, now time.Time) {
	used := now.Sub(c.born)
	if used-time.Duration(e.used.Load()) >= c.ttl/100 {
		e.used.Store(int64(used))
	}
}

// idle is how long the name was not asked for.
func (c *Cache) idle(e *entry, now time.Time) time.Duration {
	return now.Sub(c.born) - time.Duration(e.used.Load())
}

// addLocked makes an entry for a name that has none, and room for it.
func (c *Cache) addLocked(name string, now time.Time) *entry {
	if len(c.entries) >= maxEntries {
		c.evictLocked()
	}
	e := &entry{name: name, index: -1}
	e.used.Store(int64(now.Sub(c.born)))
	c.entries[name] = e
	return e
}

// evictLocked forgets the name not asked for longest. Names that are held or being asked for stay:
// the number of those is bounded by who holds and who waits. Looking at every entry is slow, but
// only happens to those who use more names than a cache is made for.
func (c *Cache) evictLocked() {
	var oldest *entry
	for _, e := range c.due {
		if c.held[e.name] == 0 && (oldest == nil || e.used.Load() < oldest.used.Load()) {
			oldest = e
		}
	}
	if oldest != nil {
		c.forgetLocked(oldest)
	}
}

func (c *Cache) forgetLocked(e *entry) {
	c.due.remove(e)
	delete(c.entries, e.name)
}

// Flush drops one name or, with "", all: the next use asks afresh, and joins a query in flight. The
// addresses stay at hand as old ones. Remembered failures are dropped too. It returns how many
// entries were dropped.
func (c *Cache) Flush(host string) int {
	name := normalize(host)
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	dropped := 0
	for _, e := range c.entries {
		if host != "" && e.name != name {
			continue
		}
		if e.fresh(now) || e.failedWithin(now, failureMemory) {
			dropped++
		}
		e.drop(now)
		e.failedAt = time.Time{}
	}
	return dropped
}

// shown is the entry for those outside.
func (e *entry) shown(now time.Time) Entry {
	return Entry{
		Host:       e.name,
		Addrs:      e.addrs,
		ResolvedAt: e.resolvedAt,
		ExpiresAt:  e.expiresAt,
		Stale:      e.addrs != nil && !e.fresh(now),
		Err:        e.err,
	}
}

// Entry is the state of one name; false if nothing is known of it. To look is not to use it.
func (c *Cache) Entry(host string) (Entry, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e := c.entries[normalize(host)]
	if e == nil || e.addrs == nil && e.err == nil {
		return Entry{}, false // or its first query is in flight
	}
	return e.shown(time.Now()), true
}

// Entries is a snapshot of the cache, sorted by name.
func (c *Cache) Entries() []Entry {
	now := time.Now()
	c.mu.RLock()
	all := make([]Entry, 0, len(c.entries))
	for _, e := range c.entries {
		if e.addrs == nil && e.err == nil {
			continue // its first query is in flight
		}
		all = append(all, e.shown(now))
	}
	c.mu.RUnlock()
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.Host, b.Host) })
	return all
}
