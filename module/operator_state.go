package module

import (
	"encoding/json"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/upstream"
)

// operated is what operators have done to a service, for the process that replaces
// this one. All else that a queue knows is learnt again from clients and checks.
type operated struct {
	Drained   []string  `json:"drained,omitempty"` // backends
	HeldUntil time.Time `json:"held_until,omitzero"`
}

// operatorState returns what operators have done to all services, by service key.
func operatorState() []byte {
	all := make(map[string]operated)
	now := time.Now()
	services.Range(func(_, value any) bool {
		s := value.(*service)
		if s.current.Load() == nil {
			return true // no config has the service any more
		}
		o := operated{HeldUntil: s.HeldUntil()}
		undrained := s.Pool.Undrained()
		for _, backend := range s.Pool.Order() {
			if !slices.ContainsFunc(undrained, func(b *upstream.Backend) bool { return b.Text == backend }) {
				o.Drained = append(o.Drained, backend)
			}
		}
		if len(o.Drained) > 0 || o.HeldUntil.After(now) {
			all[s.key] = o
		}
		return true
	})
	text, _ := json.Marshal(all)
	return text
}

// restoredBy is named in the journal for what operators did in the old process.
const restoredBy = "the process before this one"

// restoreDrainedLocked drains the backends that were drained in the old process. The
// targets of an SRV backend may be unknown yet. Those that its first answer does not
// list are forgotten.
func (s *service) restoreDrainedLocked() {
	var later []string
	for _, drained := range s.drainLater {
		b := s.Pool.Backend(drained)
		if b == nil {
			later = append(later, drained)
			continue
		}
		if _, err := s.SetDrained(b, true, restoredBy); err != nil {
			processLog().Warn("backend not drained as before", zap.String("service", s.Name), zap.String("backend", b.Text), zap.Error(err))
		}
	}
	unknown := func(f *follower) bool { return len(f.known()) == 0 }
	if !slices.ContainsFunc(s.followers(), unknown) {
		later = nil
	}
	s.drainLater = later
}

// restoreOperatorState repeats what operators have done in the old process.
func restoreOperatorState(text []byte) {
	all := make(map[string]operated)
	if len(text) == 0 {
		return
	}
	if err := json.Unmarshal(text, &all); err != nil {
		processLog().Error("state of the old process unreadable", zap.Error(err))
		return
	}
	services.Range(func(_, value any) bool {
		s := value.(*service)
		o := all[s.key]
		s.mu.Lock()
		s.drainLater = o.Drained
		s.restoreDrainedLocked()
		s.mu.Unlock()
		if left := time.Until(o.HeldUntil); left > 0 {
			s.Hold(left, restoredBy)
		}
		return true
	})
}
