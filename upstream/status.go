package upstream

import (
	"slices"
	"time"
)

// State is the state of a backend on one network. The package comment shows the
// transitions.
type State string

// The states, as named in the admin API.
const (
	Up       State = "up"
	Struck   State = "struck"   // one strike
	Down     State = "down"     // demoted, and no success has ended that
	Cooling  State = "cooling"  // down, and passed over until its cooldown ends
	Draining State = "draining" // an operator drained it: it gets no new clients
)

// Status is the place and the state of a backend at one moment.
type Status struct {
	Backend    *Backend
	Position   int // index in the queue
	Configured int // index in the configuration
	Networks   [networks]NetworkStatus
}

// NetworkStatus is the state of a backend on one [Network].
type NetworkStatus struct {
	State        State
	Strikes      int
	ByCheck      bool      // only a passed check ends the strike or down
	Suspect      bool      // other instances have demoted it, and this one has not tried it since
	DownSince    time.Time // zero unless down
	CoolingUntil time.Time // zero unless cooling
	Succeeded    uint64    // number of successful attempts
	Failed       uint64    // number of failed attempts, including those without a strike
	FailedChecks uint64    // the part of Failed that health checks had
	FailedLocal  uint64    // number of local failures, which are not part of Failed
	Local        bool      // the latest attempt failed locally
	Demotions    uint64
	LastFailure  Failure // zero if there was none; may be local
}

// Departed holds the final counts of removed backends on one [Network].
type Departed struct {
	Failed       uint64
	FailedChecks uint64
	FailedLocal  uint64
	Demotions    uint64
}

// Departed returns the sums over all backends removed since the pool was created.
func (p *Pool) Departed(n Network) Departed {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.departed[n]
}

// countDepartedLocked adds the counts of the backends that are not in next to
// departed.
func (p *Pool) countDepartedLocked(next []*Backend) {
	for _, b := range p.backends() {
		if slices.Contains(next, b) {
			continue
		}
		for n := range b.health {
			p.departed[n].Failed += b.health[n].failed.Load()
			p.departed[n].FailedChecks += b.health[n].failedChecks.Load()
			p.departed[n].FailedLocal += b.health[n].failedLocally.Load()
			p.departed[n].Demotions += b.health[n].demotions.Load()
		}
	}
}

// Snapshot returns the status of all backends at now, in the order of the queue.
func (p *Pool) Snapshot(now time.Time) []Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	backends := p.backends()
	list := make([]Status, len(backends))
	for i, b := range backends {
		list[i] = Status{Backend: b, Position: i, Configured: b.configured}
		for n := range networks {
			list[i].Networks[n] = p.networkStatusLocked(b, n, now)
		}
	}
	return list
}

func (p *Pool) networkStatusLocked(b *Backend, n Network, now time.Time) NetworkStatus {
	h := &b.health[n]
	w := h.load()
	s := NetworkStatus{
		State:       Up,
		Strikes:     int(w & strikeBit),
		ByCheck:     w.has(checkBit),
		Suspect:     h.suspicion.Load() != nil,
		DownSince:   h.downSince,
		Succeeded:   h.succeeded.Load(),
		Failed:      h.failed.Load(),
		FailedLocal: h.failedLocally.Load(),
		Local:       h.local.Load(),
		Demotions:   h.demotions.Load(),
		LastFailure: h.lastFailure,
	}
	s.FailedChecks = min(h.failedChecks.Load(), s.Failed) // counted later than Failed
	cooling := p.epoch.Add(time.Duration(h.cooling.Load()))
	switch {
	case b.drained.Load():
		s.State = Draining
	case w.has(downBit) && cooling.After(now):
		s.State, s.CoolingUntil = Cooling, cooling
	case w.has(downBit):
		s.State = Down
	case w.has(strikeBit):
		s.State = Struck
	}
	return s
}
