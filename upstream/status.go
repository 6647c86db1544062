package upstream

import (
	"slices"
	"time"
)

// State is a backend's condition on one network, in one word.
type State string

// The states, from the admin API's contract.
const (
	Up       State = "up"
	Struck   State = "struck"   // one strike
	Down     State = "down"     // demoted, not succeeded since
	Cooling  State = "cooling"  // down, and passed over until its cooldown ends
	Draining State = "draining" // an operator sends nobody new there
)

// Status is a backend's place and condition at one moment.
type Status struct {
	Backend    *Backend
	Position   int // in the queue, from 0
	Configured int // in the configuration, from 0
	Networks   [networks]NetworkStatus
}

// NetworkStatus is the condition of a backend on one [Network].
type NetworkStatus struct {
	State        State
	Strikes      int
	DownSince    time.Time // zero unless down
	CoolingUntil time.Time // zero unless cooling
	Succeeded    uint64    // attempts that did
	Failed       uint64    // attempts that did not, counted as strikes or not
	Demotions    uint64
	LastFailure  Failure // zero if there was none
}

// Past is what backends had counted on one [Network] when they left the queue.
type Past struct {
	Failed    uint64
	Demotions uint64
}

// Past adds up all that have left since the pool was made.
func (p *Pool) Past(n Network) Past {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.past[n]
}

// partLocked books those that are not among the ones to come.
func (p *Pool) partLocked(next []*Backend) {
	for _, b := range p.backends() {
		if slices.Contains(next, b) {
			continue
		}
		for n := range b.health {
			p.past[n].Failed += b.health[n].failed.Load()
			p.past[n].Demotions += b.health[n].demotions.Load()
		}
	}
}

// Snapshot lists the backends in queue order as they are at now.
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
	word := h.word.Load()
	s := NetworkStatus{
		State:       Up,
		Strikes:     int(word & strikeBit),
		DownSince:   h.downSince,
		Succeeded:   h.succeeded.Load(),
		Failed:      h.failed.Load(),
		Demotions:   h.demotions.Load(),
		LastFailure: h.lastFailure,
	}
	cooling := p.epoch.Add(time.Duration(h.cooling.Load()))
	switch {
	case b.drained.Load():
		s.State = Draining
	case word&downBit != 0 && cooling.After(now):
		s.State, s.CoolingUntil = Cooling, cooling
	case word&downBit != 0:
		s.State = Down
	case word&strikeBit != 0:
		s.State = Struck
	}
	return s
}
