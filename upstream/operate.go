package upstream

import (
	"errors"
	"slices"
)

// This file has the operations of operators and health checks on the queue.

// The errors of [Pool.SetDrained].
var (
	ErrLastBackend = errors.New("it is the last backend that takes new clients")
	ErrRemoved     = errors.New("it is no longer in the queue")
)

// SetDrained sets whether new clients are kept away from b, and reports whether
// that changed. Existing relays on b continue. The last backend that is not
// drained cannot be drained, even if it is down, because the service would refuse
// all clients.
func (p *Pool) SetDrained(b *Backend, drained bool) (changed bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	isAlternative := func(o *Backend) bool { return o != b && !o.drained.Load() }
	switch {
	case !slices.Contains(p.backends(), b):
		return false, ErrRemoved
	case b.drained.Load() == drained:
		return false, nil
	case drained && !slices.ContainsFunc(p.backends(), isAlternative):
		return false, ErrLastBackend
	}
	b.drained.Store(drained)
	return true, nil
}

// Reset restores the configured order and clears strikes, down, cooldowns and
// suspicions.
// Drained backends stay drained, and counts are kept. Attempts in progress become
// stale: they cause neither strikes nor recoveries.
func (p *Pool) Reset() Change {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.backends() {
		b.rank = 0
		for n := range b.health {
			h := &b.health[n]
			h.clearDownLocked()
			h.clearSuspicion()
			for w := h.load(); !h.swap(w, (w+bothUnits)&^stateMask); {
				w = h.load() // a connect was concurrent
			}
		}
	}
	for n := range networks {
		p.allDown[n].Store(false)
	}
	return p.withCountsLocked(Change{Order: p.reorderLocked()}, TCP) // UDP has the same counts now
}

// ForgetChecks makes any success end the strikes and demotions of checks on n. It
// is for a config without such checks: no check would end them. Attempts in
// progress on the backends that it changes become stale.
func (p *Pool) ForgetChecks(n Network) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.backends() {
		h := &b.health[n]
		for w := h.load(); w.has(checkBit) && !h.swap(w, (w+bothUnits)&^checkBit); {
			w = h.load() // a connect was concurrent
		}
	}
}

// Failback moves a demoted backend to its configured place, unless it is down on a
// network. Only Order of the result may be set.
func (p *Pool) Failback(b *Backend) Change {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b.rank == 0 || b.downAnywhere() {
		return Change{}
	}
	queue := p.backends()
	// The backends at the front that are up and in configured order are in their
	// places, even if they were demoted at some time. b must not overtake those
	// that are configured before it.
	for i, ahead := range queue {
		if ahead.downAnywhere() || i > 0 && ahead.configured < queue[i-1].configured {
			break
		}
		ahead.rank = 0
	}
	b.rank = 0
	return Change{Order: p.reorderLocked()}
}

// downAnywhere reports whether b is down on any network.
func (b *Backend) downAnywhere() bool { return b.Down(TCP) || b.Down(UDP) }

// Undrained returns the backends that get new clients, in the order of the queue.
func (p *Pool) Undrained() []*Backend {
	return slices.DeleteFunc(slices.Clone(p.backends()), func(b *Backend) bool { return b.drained.Load() })
}
