package upstream

import (
	"slices"
	"time"
)

// Saved is the state of a [Pool] in a form that can be stored. The zero value is the
// state of a new pool: configured order, all backends up.
type Saved struct {
	Backends []SavedBackend `json:"backends,omitempty"` // in queue order

	// Networks on which all_backends_unavailable was reported and no attempt has
	// succeeded since.
	AllDown []string `json:"all_down,omitempty"`
}

// SavedBackend is the state of one backend in [Saved].
type SavedBackend struct {
	Backend string      `json:"backend"`           // as configured
	Demoted bool        `json:"demoted,omitempty"` // stands behind those that never were
	Drained bool        `json:"drained,omitempty"`
	TCP     SavedHealth `json:"tcp,omitzero"`
	UDP     SavedHealth `json:"udp,omitzero"`
}

// on returns the state on a network.
func (s *SavedBackend) on(n Network) *SavedHealth {
	if n == UDP {
		return &s.UDP
	}
	return &s.TCP
}

// SavedHealth is the state of a backend on one network. The zero value is up.
type SavedHealth struct {
	State        State     `json:"state,omitempty"` // Struck or Down; empty: up
	ByCheck      bool      `json:"by_check,omitempty"`
	DownSince    time.Time `json:"down_since,omitzero"`
	CoolingUntil time.Time `json:"cooling_until,omitzero"`
}

// Export returns the state of the pool at now. Counts are not part of it.
func (p *Pool) Export(now time.Time) (s Saved) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.ContainsFunc(p.backends(), (*Backend).remarkableLocked) {
		return Saved{} // without an allocation: most pools are exported every second, and few have changed
	}
	for _, b := range p.backends() {
		saved := SavedBackend{Backend: b.Text, Demoted: b.rank != 0, Drained: b.drained.Load()}
		for n := range networks {
			*saved.on(n) = p.savedHealthLocked(&b.health[n], now)
		}
		s.Backends = append(s.Backends, saved)
	}
	for n := range networks {
		if p.allDown[n].Load() {
			s.AllDown = append(s.AllDown, n.String())
		}
	}
	return s
}

// remarkableLocked reports whether the backend is not in the state of a new one.
func (b *Backend) remarkableLocked() bool {
	return b.rank != 0 || b.drained.Load() || (b.health[TCP].load() | b.health[UDP].load()).has(stateMask)
}

func (p *Pool) savedHealthLocked(h *health, now time.Time) (s SavedHealth) {
	w := h.load()
	switch {
	case w.has(downBit):
		s.State, s.DownSince = Down, h.downSince.Round(0) // the monotonic clock means nothing to another process
		if until := p.epoch.Add(time.Duration(h.cooling.Load())); until.After(now) {
			s.CoolingUntil = until.Round(0)
		}
	case w.has(strikeBit):
		s.State = Struck
	}
	s.ByCheck = w.has(checkBit)
	return s
}

// Restore gives the backends the state that they have in saved. Backends that are not
// in saved keep their state and their configured place, as in [Pool.Update]; those
// that are not in the pool are ignored. A cooldown lasts no longer than a new one
// would. If all backends would be drained, the first of the queue is not: Restore
// returns it as spared. Attempts in progress become stale.
func (p *Pool) Restore(saved Saved, now time.Time) (spared *Backend) {
	p.mu.Lock()
	defer p.mu.Unlock()
	queue := slices.Clone(p.backends())
	missing := make(map[string]*Backend, len(queue))
	for _, b := range queue {
		missing[b.Text] = b
	}
	var first *Backend // of those in saved
	for i := range saved.Backends {
		s := &saved.Backends[i]
		b := missing[s.Backend]
		if b == nil {
			continue
		}
		delete(missing, s.Backend)
		b.rank = 0
		if s.Demoted || s.TCP.State == Down || s.UDP.State == Down {
			p.lastRank++
			b.rank = p.lastRank
		}
		b.drained.Store(s.Drained)
		for n := range networks {
			p.restoreHealthLocked(&b.health[n], s.on(n), now)
		}
		if first == nil {
			first = b
		}
	}
	if first != nil && !first.downAnywhere() {
		first.rank = 0 // as in Update
	}
	p.sortLocked(queue)
	if len(queue) > 0 && !slices.ContainsFunc(queue, func(b *Backend) bool { return !b.drained.Load() }) {
		spared = queue[0]
		spared.drained.Store(false)
	}
	for n := range networks {
		p.allDown[n].Store(slices.Contains(saved.AllDown, n.String()) && available(queue, n) == 0)
	}
	return spared
}

func (p *Pool) restoreHealthLocked(h *health, s *SavedHealth, now time.Time) {
	h.clearDownLocked()
	h.struckUntil = time.Time{}
	var state word
	switch s.State {
	case Struck:
		state = strikeBit
	case Down:
		state = downBit
		h.downSince = s.DownSince
		if s.DownSince.IsZero() || s.DownSince.After(now) {
			h.downSince = now
		}
		if left := min(s.CoolingUntil.Sub(now), p.cooldown); left > 0 {
			h.cooling.Store(int64(now.Add(left).Sub(p.epoch)))
		}
	}
	if state != 0 && s.ByCheck {
		state |= checkBit
	}
	for w := h.load(); !h.swap(w, (w+bothUnits)&^stateMask|state); {
		w = h.load() // a connect was concurrent
	}
}

// Counts are what a backend counts on one network.
type Counts struct {
	Succeeded    uint64 // see NetworkStatus for all
	Failed       uint64
	FailedChecks uint64
	FailedLocal  uint64
	Demotions    uint64
	LastFailure  Failure
}

// Counts returns the counts in the status.
func (s *NetworkStatus) Counts() Counts {
	return Counts{s.Succeeded, s.Failed, s.FailedChecks, s.FailedLocal, s.Demotions, s.LastFailure}
}

// AddCounts adds the counts of an earlier process. A later failure stays the last one.
func (p *Pool) AddCounts(b *Backend, n Network, c Counts) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := &b.health[n]
	h.succeeded.Add(c.Succeeded)
	h.failed.Add(c.Failed)
	h.failedChecks.Add(c.FailedChecks)
	h.failedLocally.Add(c.FailedLocal)
	h.demotions.Add(c.Demotions)
	if h.lastFailure.At.IsZero() {
		h.lastFailure = c.LastFailure
	}
}

// AddDeparted adds the counts of backends that an earlier process had.
func (p *Pool) AddDeparted(n Network, d Departed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	sum := &p.departed[n]
	sum.Failed += d.Failed
	sum.FailedChecks += d.FailedChecks
	sum.FailedLocal += d.FailedLocal
	sum.Demotions += d.Demotions
}

// IsZero reports whether the saved state is that of a new pool.
func (s Saved) IsZero() bool { return len(s.Backends) == 0 && len(s.AllDown) == 0 }

// valid reports whether the text of a state may be stored.
func (s *SavedHealth) valid() bool { return s.State == "" || s.State == Struck || s.State == Down }

// Valid reports whether the state can be that of a pool: each backend once, with known
// states. It need not fit to a certain pool.
func (s Saved) Valid() bool {
	seen := make(map[string]bool)
	for i := range s.Backends {
		b := &s.Backends[i]
		if b.Backend == "" || seen[b.Backend] || !b.TCP.valid() || !b.UDP.valid() {
			return false
		}
		seen[b.Backend] = true
	}
	return true
}
