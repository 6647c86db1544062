package module

import (
	"slices"

	"go.uber.org/zap"
)

// reloadSummary describes what a reload changed in services that existed before
// it and still exist.
type reloadSummary struct {
	services              int      // that the reload kept
	relays, sessions      int      // that the reload kept
	added, removed, moved []string // backends, as "service backend"
}

// summarize compares the orders of the queue before and after the reload.
func (s *service) summarize(before, after []string) reloadSummary {
	sum := reloadSummary{services: 1}
	sum.relays, sum.sessions = s.Active()
	change := diffOrder(before, after)
	named := func(list []string) (texts []string) {
		for _, b := range list {
			texts = append(texts, s.Name+" "+b)
		}
		return texts
	}
	sum.added, sum.removed, sum.moved = named(change.added), named(change.removed), named(change.moved)
	return sum
}

// queueChanged reports whether the reload changed the backends or their order.
func (r *reloadSummary) queueChanged() bool { return len(r.added)+len(r.removed)+len(r.moved) > 0 }

func (r *reloadSummary) add(other reloadSummary) {
	r.services += other.services
	r.relays += other.relays
	r.sessions += other.sessions
	r.added = append(r.added, other.added...)
	r.removed = append(r.removed, other.removed...)
	r.moved = append(r.moved, other.moved...)
}

// log writes one line for the whole reload.
func (r *reloadSummary) log(log *zap.Logger) {
	slices.Sort(r.added)
	slices.Sort(r.removed)
	slices.Sort(r.moved)
	log.Info("config reloaded",
		zap.Int("services_kept", r.services),
		zap.Int("relays_kept", r.relays),
		zap.Int("sessions_kept", r.sessions),
		zap.Strings("backends_added", r.added),
		zap.Strings("backends_removed", r.removed),
		zap.Strings("backends_moved", r.moved))
}
