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
	ExpiresAt  time.Time    `json:"expires_at,omitzero"` // end of being fresh
}

// restoredDelay is the time after which restored answers are renewed. It gives a
// program the time to find that it does not start after all.
const restoredDelay = 2 * time.Second

// Save returns the last good answers of all names, sorted by name.
func (c *Cache) Save() (saved []Saved) {
	for _, e := range c.Entries() {
		if len(e.Addrs) > 0 {
			saved = append(saved, Saved{Host: e.Host, Addrs: e.Addrs, ResolvedAt: e.ResolvedAt, ExpiresAt: e.ExpiresAt})
		}
	}
	return saved
}

// Restore adds answers of an earlier cache. One that has not expired is returned at
// once. For an expired one, a lookup queries DNS, and uses the answer if that fails or
// is slow. Both are renewed in the background soon, but
// Restore itself sends no query. Names that the cache has resolved keep their answers.
func (c *Cache) Restore(saved []Saved) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range saved {
		addrs, _, _ := tidy(slices.Clone(s.Addrs), nil)
		name := normalize(s.Host)
		e := c.entries[name]
		if len(addrs) == 0 || name == "" || e != nil && e.addrs != nil {
			continue
		}
		if e == nil {
			e = c.addLocked(name, now)
			e.due = now.Add(restoredDelay)
			c.due.add(e)
		}
		e.addrs, e.resolvedAt, e.expiresAt = addrs, s.ResolvedAt, now
		if s.ResolvedAt.After(now) {
			e.resolvedAt = now // the clock was set back
		}
		if left := min(s.ExpiresAt.Sub(now), e.life); left > 0 {
			e.expiresAt = now.Add(left)
		}
	}
	select {
	case c.wake <- struct{}{}:
	default: // refreshLoop is already awake
	}
}
