package upstream

import (
	"errors"
	"slices"
)

// This file is what operators and health checks do to the queue, beside what
// clients find out.

// Why a backend cannot be drained or resumed.
var (
	ErrLastBackend = errors.New("it is the last backend that takes new clients")
	ErrRemoved     = errors.New("it is no longer in the queue")
)

// SetDrained takes a backend out of what new clients are offered, or puts it
// back, and says whether that is news. What runs on it goes on. The last one
// that is not drained stays, down or not: a service without any refuses all.
func (p *Pool) SetDrained(b *Backend, drained bool) (changed bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	takesOthers := func(o *Backend) bool { return o != b && !o.drained.Load() }
	switch {
	case !slices.Contains(p.backends(), b):
		return false, ErrRemoved
	case b.drained.Load() == drained:
		return false, nil
	case drained && !slices.ContainsFunc(p.backends(), takesOthers):
		return false, ErrLastBackend
	}
	b.drained.Store(drained)
	return true, nil
}

// Reset brings back the configured order, without strikes, down or cooling
// backends; what is drained stays so, and totals go on. Attempts under way
// become too old for a strike, and there is nothing to recover from.
func (p *Pool) Reset() Change {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.backends() {
		b.rank = 0
		for n := range b.health {
			h := &b.health[n]
			h.upLocked()
			for word := h.word.Load(); !h.word.CompareAndSwap(word, (word+genUnit)&^stateMask); {
				word = h.word.Load() // a success slipped in between
			}
		}
	}
	for n := range networks {
		p.allDown[n].Store(false)
	}
	return p.countedLocked(Change{Order: p.reorderLocked()}, TCP) // which is as UDP now
}

// Failback moves a demoted backend to its configured place, if it is down on
// no network. The change says the new order, where it is another, and no more.
func (p *Pool) Failback(b *Backend) Change {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b.rank == 0 || b.downAnywhere() {
		return Change{}
	}
	queue := p.backends()
	// Those in front that work and stand as configured among themselves are in
	// their places, demoted once or not: b must not overtake them on its way.
	for i, ahead := range queue {
		if ahead.downAnywhere() || i > 0 && ahead.configured < queue[i-1].configured {
			break
		}
		ahead.rank = 0
	}
	b.rank = 0
	return Change{Order: p.reorderLocked()}
}

func (b *Backend) downAnywhere() bool { return b.Down(TCP) || b.Down(UDP) }
