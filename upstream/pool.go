package upstream

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Pool is the ordered queue of backends of one service. All methods may be
// called by any number of goroutines.
type Pool struct {
	epoch time.Time                  // set once: what health.cooling counts from
	order atomic.Pointer[[]*Backend] // the queue, first choice first; replaced, never edited, under mu

	allDown [networks]atomic.Bool // all_backends_unavailable was reported and nobody has succeeded since; written under mu

	mu       sync.Mutex // guards what follows and every change of a backend's state; held for memory work only
	cooldown time.Duration
	lastRank int64
	past     [networks]Past
}

// Change is what one report did to the queue, for those who log and announce
// it. The zero value says: nothing that anybody needs to know.
type Change struct {
	Strike         int           // 1 or 2 where the failure was a strike
	Demoted        bool          // the backend went to the end of the queue: backend_failed
	Order          []string      // the new order, where it is another than before
	CoolingUntil   time.Time     // set with Demoted where there is a cooldown
	AllUnavailable bool          // that was the last one: all_backends_unavailable
	Recovered      bool          // first success of a backend that was down: backend_recovered
	DownFor        time.Duration // set with Recovered

	// How many backends are neither down (or cooling) on that network nor
	// drained, and how many there are: set with a strike, a recovery and a reset.
	Available, Total int
}

// NewPool makes a queue of the addresses in their order. cooldown is how long
// a demoted backend is passed over while a client has another left; 0 never.
// Texts must differ (the configuration sees to it).
func NewPool(addresses []Address, cooldown time.Duration, now time.Time) *Pool {
	p := &Pool{epoch: now}
	p.Update(addresses, cooldown)
	return p
}

// Update gives the pool another configuration. Backends that stay keep their
// state (strikes, down, cooldown, drained, and their place at the end if they
// were demoted), whatever their new position; new ones enter where they are
// configured. Attempts under way on a removed backend go on.
func (p *Pool) Update(addresses []Address, cooldown time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cooldown = cooldown
	known := make(map[string]*Backend)
	for _, b := range p.backends() {
		known[b.Text] = b
	}
	// A leader that works stands where it is configured, so that new ones find
	// their place beside it and do not overtake a queue in which each was
	// demoted at some time.
	stays := func(b *Backend) bool { return slices.Contains(addresses, b.Address) }
	if i := slices.IndexFunc(p.backends(), stays); i >= 0 {
		if leader := p.backends()[i]; !leader.downAnywhere() {
			leader.rank = 0
		}
	}
	order := make([]*Backend, 0, len(addresses))
	for i, a := range addresses {
		b := known[a.Text]
		if b == nil || b.Address != a {
			b = newBackend(a)
		}
		b.configured = i
		order = append(order, b)
	}
	p.partLocked(order)
	p.sortLocked(order)
	for n := range networks {
		p.allDown[n].Store(p.allDown[n].Load() && available(order, n) == 0)
	}
}

// backends is the queue as it stands; not to be edited.
func (p *Pool) backends() []*Backend {
	if order := p.order.Load(); order != nil {
		return *order
	}
	return nil
}

// sortLocked publishes backends as the new queue: those never moved as
// configured, then the demoted ones in the order of their demotions.
func (p *Pool) sortLocked(backends []*Backend) {
	slices.SortStableFunc(backends, func(a, b *Backend) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.configured, b.configured))
	})
	p.order.Store(&backends)
}

// Order lists the backends' texts, first choice first.
func (p *Pool) Order() []string {
	backends := p.backends()
	texts := make([]string, len(backends))
	for i, b := range backends {
		texts[i] = b.Text
	}
	return texts
}

// Backend finds a backend of the queue by its text; nil if there is none.
func (p *Pool) Backend(text string) *Backend {
	for _, b := range p.backends() {
		if b.Text == text {
			return b
		}
	}
	return nil
}

// failed books a failed attempt and says whether it was stale: older than the
// backend's latest strike, success, demotion or reset.
func (p *Pool) failed(a Attempt, now time.Time, err error, addr netip.AddrPort) (change Change, stale, down bool) {
	text := err.Error() // not under the lock: it is a stranger's code
	p.mu.Lock()
	defer p.mu.Unlock()
	b, h := a.Backend, a.health()
	h.failed.Add(1)
	h.lastFailure = Failure{At: now, Error: text, Address: addr}
	for {
		word := h.word.Load()
		switch {
		case generation(word) != a.generation:
			return Change{}, true, false
		case word&downBit != 0:
			return Change{}, false, true
		case word&strikeBit == 0:
			if h.word.CompareAndSwap(word, (word+genUnit)|strikeBit) {
				return p.countedLocked(Change{Strike: 1}, a.network), false, false
			}
		default:
			if h.word.CompareAndSwap(word, (word+genUnit)&^strikeBit|downBit) {
				return p.demoteLocked(b, a.network, now), false, false
			}
		}
		// A success slipped in between: look again, this failure is older now.
	}
}

// demoteLocked moves b to the end of the queue after its second strike and
// wakes those who still wait on it.
func (p *Pool) demoteLocked(b *Backend, n Network, now time.Time) Change {
	h := &b.health[n]
	h.demotions.Add(1)
	h.downSince = now
	change := Change{Strike: 2, Demoted: true}
	if p.cooldown > 0 {
		change.CoolingUntil = now.Add(p.cooldown)
		h.cooling.Store(int64(change.CoolingUntil.Sub(p.epoch)))
	}
	waiting := *h.demoted.Load()
	h.renewDemoted()
	close(waiting)

	p.lastRank++
	b.rank = p.lastRank
	change.Order = p.reorderLocked()
	change = p.countedLocked(change, n)
	if change.Available == 0 && !p.allDown[n].Load() {
		p.allDown[n].Store(true)
		change.AllUnavailable = true
	}
	return change
}

// reorderLocked has the queue follow its backends' ranks; nil if it did already.
func (p *Pool) reorderLocked() []string {
	before := p.backends()
	after := slices.Clone(before)
	p.sortLocked(after)
	if slices.Equal(before, after) {
		return nil
	}
	return p.Order()
}

// countedLocked adds to a change how many backends are left standing.
func (p *Pool) countedLocked(change Change, n Network) Change {
	backends := p.backends()
	change.Available, change.Total = available(backends, n), len(backends)
	return change
}

// available counts the backends that take new clients and are not down.
func available(backends []*Backend, n Network) (count int) {
	for _, b := range backends {
		if !b.drained.Load() && !b.Down(n) {
			count++
		}
	}
	return count
}

// succeeded books a successful attempt.
func (p *Pool) succeeded(a Attempt, now time.Time) Change {
	h := a.health()
	h.succeeded.Add(1)
	// In good times a success only advances the generation: no lock. They are
	// not good while all are reported down, though this one may be up: it was
	// drained at the time of the report.
	for !p.allDown[a.network].Load() {
		word := h.word.Load()
		if word&stateMask != 0 {
			break
		}
		if h.word.CompareAndSwap(word, word+genUnit) {
			return Change{}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.allDown[a.network].Store(false)
	for {
		word := h.word.Load()
		if !h.word.CompareAndSwap(word, (word+genUnit)&^stateMask) {
			continue
		}
		if word&downBit == 0 {
			return Change{}
		}
		change := p.countedLocked(Change{Recovered: true, DownFor: now.Sub(h.downSince)}, a.network)
		h.upLocked()
		return change
	}
}
