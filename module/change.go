package module

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/handler"
)

// change is what a reload did to services that were there before and still
// are.
type change struct {
	services              int
	relays, sessions      int      // kept
	added, removed, moved []string // backends, as "service backend"
}

// changeSince compares the queue with what it was, and counts who is kept.
// Moved are those that stand behind others than before, leaving aside the ones
// that came and went.
func (s *service) changeSince(before []string) change {
	after := s.Pool.Order()
	c := change{services: 1}
	c.relays, c.sessions = s.Active()
	only := func(these, those []string) (rest []string) {
		for _, b := range these {
			if !slices.Contains(those, b) {
				rest = append(rest, s.Name+" "+b)
			}
		}
		return rest
	}
	c.added, c.removed = only(after, before), only(before, after)
	stayed := func(order, other []string) []string {
		return slices.DeleteFunc(slices.Clone(order), func(b string) bool { return !slices.Contains(other, b) })
	}
	was, is := stayed(before, after), stayed(after, before)
	for i := range is {
		if was[i] != is[i] {
			c.moved = append(c.moved, s.Name+" "+is[i])
		}
	}
	return c
}

// ofQueue says whether the queue is another.
func (c *change) ofQueue() bool { return len(c.added)+len(c.removed)+len(c.moved) > 0 }

func (c *change) add(d change) {
	c.services += d.services
	c.relays += d.relays
	c.sessions += d.sessions
	c.added = append(c.added, d.added...)
	c.removed = append(c.removed, d.removed...)
	c.moved = append(c.moved, d.moved...)
}

// tell writes the one line of a reload.
func (c *change) tell(log *zap.Logger) {
	slices.Sort(c.added)
	slices.Sort(c.removed)
	slices.Sort(c.moved)
	log.Info("config reloaded",
		zap.Int("services_kept", c.services),
		zap.Int("relays_kept", c.relays),
		zap.Int("sessions_kept", c.sessions),
		zap.Strings("backends_added", c.added),
		zap.Strings("backends_removed", c.removed),
		zap.Strings("backends_moved", c.moved))
}

// readdressed writes down that a name has other addresses, if it is one of the
// service's.
func (s *service) readdressed(host string, old, new []netip.Addr) {
	for _, b := range s.Pool.Snapshot(time.Now()) {
		if b.Backend.Host == host && !b.Backend.IP.IsValid() {
			s.Journal.Add(handler.Entry{Kind: handler.KindDNS, Backend: b.Backend.Text, Cause: fmt.Sprintf("%v, before %v", new, old)})
		}
	}
}
