package resolver

import (
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// entry holds the addresses and the state of one name. The package comment shows its life.
type entry struct {
	name string

	// used is the time of the last lookup, in ns since Cache.created. See Cache.markUsed.
	used atomic.Int64

	// Guarded by Cache.mu.
	addrs      []netip.Addr  // the last good answer; nil before the first; never modified
	resolvedAt time.Time     // when addrs were resolved
	life       time.Duration // lifetime of addrs; before the first answer, the longest one
	expiresAt  time.Time     // end of being fresh
	err        error         // failure of the last query; nil if it succeeded
	failedAt   time.Time     // when it failed; zero: no failure to return
	reportedAt time.Time     // when the observer was last notified of this outage; zero: never
	ignored    bool          // addresses of the last good answer are not used
	flight     *flight       // query in flight; nil: none
	due        time.Time     // when refreshLoop must visit the entry; unused in flight
	index      int           // index in Cache.due; -1: not in the heap
}

// Entry holds the state of one name, for status pages.
type Entry struct {
	Host       string        // lower case; ends with a dot if search domains do not apply
	Addrs      []netip.Addr  // empty if the name never resolved; must not be modified
	ResolvedAt time.Time     // when Addrs were resolved
	ExpiresAt  time.Time     // when Addrs become or became stale, by age or by being dropped
	Stale      bool          // Addrs are expired or were dropped
	Lifetime   time.Duration // of the last answer
	Err        error         // failure of the last query; nil if it succeeded
}

func (e *entry) fresh(now time.Time) bool { return now.Before(e.expiresAt) }

// failedWithin reports whether the last query failed less than memory ago.
func (e *entry) failedWithin(now time.Time, memory time.Duration) bool {
	return !e.failedAt.IsZero() && now.Sub(e.failedAt) < memory
}

// answer returns the last good answer. It has no addresses if there was none.
func (e *entry) answer(now time.Time) Answer {
	return Answer{Addrs: e.addrs, Stale: !e.fresh(now), ResolvedAt: e.resolvedAt}
}

// drop makes the entry stale.
func (e *entry) drop(now time.Time) {
	if e.fresh(now) {
		e.expiresAt = now
	}
}

// markUsed records a lookup of the name. It writes only if 1 % of the lifetime has passed since the last
// write. Cores that look up one name at the same time therefore do not contend for its cache line.
func (c *Cache) markUsed(e *entry, now time.Time) {
	used := now.Sub(c.created)
	if used-time.Duration(e.used.Load()) >= e.life/100 {
		e.used.Store(int64(used))
	}
}

// idle returns the time since the last lookup of the name.
func (c *Cache) idle(e *entry, now time.Time) time.Duration {
	return now.Sub(c.created) - time.Duration(e.used.Load())
}

// addLocked adds an entry for a name that has none. If the cache is full, it removes another one.
func (c *Cache) addLocked(name string, now time.Time) *entry {
	if len(c.entries) >= maxEntries {
		c.evictLocked()
	}
	e := &entry{name: name, index: -1, life: c.lifetime.Longest()}
	e.used.Store(int64(now.Sub(c.created)))
	c.entries[name] = e
	return e
}

// evictLocked removes the entry that was not used for the longest time. Entries that are held or in
// flight stay, and their number is bounded by the callers. The search over all entries is slow, but
// happens only if more than maxEntries names are in use.
func (c *Cache) evictLocked() {
	var oldest *entry
	for _, e := range c.due {
		if c.held[e.name] == 0 && (oldest == nil || e.used.Load() < oldest.used.Load()) {
			oldest = e
		}
	}
	if oldest != nil {
		c.removeLocked(oldest)
	}
}

// removeLocked removes an entry that is not in flight.
func (c *Cache) removeLocked(e *entry) {
	c.due.remove(e)
	delete(c.entries, e.name)
}

// Flush drops one name, with and without a dot at its end, or with "" all names. The next lookup of a dropped name queries DNS or joins
// a query in flight. The addresses are kept as stale ones, remembered failures are removed. Flush
// returns the number of entries that it dropped.
func (c *Cache) Flush(host string) int {
	name := trimDot(normalize(host))
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	dropped := 0
	for _, e := range c.entries {
		if host != "" && trimDot(e.name) != name {
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

// export returns the state of the entry.
func (e *entry) export(now time.Time) Entry {
	return Entry{
		Host:       e.name,
		Addrs:      e.addrs,
		ResolvedAt: e.resolvedAt,
		ExpiresAt:  e.expiresAt,
		Lifetime:   e.life,
		Stale:      e.addrs != nil && !e.fresh(now),
		Err:        e.err,
	}
}

// Entry returns the state of one name, and false if the name is not in the cache or its first query
// is in flight. If the cache has the name only with a dot at its end, or only without it, Entry
// returns that one. It does not mark the name as used.
func (c *Cache) Entry(host string) (Entry, bool) {
	name := normalize(host)
	c.mu.RLock()
	defer c.mu.RUnlock()
	e := c.entries[name]
	if bare := trimDot(name); e == nil && bare != name {
		e = c.entries[bare]
	} else if e == nil {
		e = c.entries[bare+"."]
	}
	if e == nil || e.addrs == nil && e.err == nil {
		return Entry{}, false
	}
	return e.export(time.Now()), true
}

// Entries returns the state of all names, sorted by name.
func (c *Cache) Entries() []Entry {
	now := time.Now()
	c.mu.RLock()
	all := make([]Entry, 0, len(c.entries))
	for _, e := range c.entries {
		if e.addrs == nil && e.err == nil {
			continue // its first query is in flight
		}
		all = append(all, e.export(now))
	}
	c.mu.RUnlock()
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.Host, b.Host) })
	return all
}
