package resolver

import (
	"net/netip"
	"slices"
	"time"
)

// Saved is the last good answer for a name, in a form that can be stored.
type Saved struct {
	Host       string       `json:"host"`
	Addrs      []netip.Addr `json:"addrs"`
	ResolvedAt time.Time    `json:"resolved_at"`
}

// Save returns the last good answers of all names, sorted by name.
func (c *Cache) Save() (saved []Saved) {
	for _, e := range c.Entries() {
		if len(e.Addrs) > 0 {
			saved = append(saved, Saved{Host: e.Host, Addrs: e.Addrs, ResolvedAt: e.ResolvedAt})
		}
	}
	return saved
}

// Restore adds answers of an earlier cache as stale ones: a lookup queries DNS, and
// uses them if that fails or is slow. Names that the cache has resolved keep their
// answers.
func (c *Cache) Restore(saved []Saved) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range saved {
		addrs, _, _ := tidy(slices.Clone(s.Addrs), nil)
		name := normalize(s.Host)
		e := c.entries[name]
		if len(addrs) == 0 || e != nil && e.addrs != nil {
			continue
		}
		if e == nil {
			e = c.addLocked(name, now)
			e.due = now // renewed at once
			c.due.add(e)
		}
		e.addrs, e.resolvedAt, e.expiresAt = addrs, s.ResolvedAt, now
	}
	select {
	case c.wake <- struct{}{}:
	default: // refreshLoop is already awake
	}
}
