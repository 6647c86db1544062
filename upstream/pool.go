package upstream

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Pool is the ordered queue of backends of one service. All methods are safe for
// concurrent use.
type Pool struct {
	epoch time.Time                  // set once; health.cooling is relative to it
	order atomic.Pointer[[]*Backend] // the queue, first choice first; replaced under mu, never modified

	allDown [networks]atomic.Bool // all_backends_unavailable was reported and no attempt has succeeded since; written under mu

	mu       sync.Mutex // guards the fields below and changes of backends' states; not held while blocking
	cooldown time.Duration
	lastRank int64
	departed [networks]Departed
}

// Change describes the effect of one call on the queue, for logs and events. The
// zero value means that there is nothing to log.
type Change struct {
	Strike         int           // 1 or 2 if the failure was a strike, else 0
	Demoted        bool          // the backend moved to the end of the queue: backend_failed
	ByCheck        bool          // set with a strike and with Demoted if only a passed check ends the state
	Order          []string      // the new order; nil if it did not change
	CoolingUntil   time.Time     // set with Demoted if there is a cooldown
	AllUnavailable bool          // the last available backend went down: all_backends_unavailable
	Recovered      bool          // first success of a backend that was down: backend_recovered
	DownFor        time.Duration // set with Recovered

	// The number of backends that are neither down on that network nor drained,
	// and the number of all backends. Set with a strike, a recovery and a reset.
	Available, Total int
}

// NewPool returns a queue of the addresses in their order. cooldown is how long a
// demoted backend is passed over while a client has another one left; 0 turns
// cooldowns off. The texts of the addresses must be unique.
func NewPool(addresses []Address, cooldown time.Duration, now time.Time) *Pool {
	p := &Pool{epoch: now}
	p.Update(addresses, cooldown)
	return p
}

// Update changes the configuration of the pool. Backends that stay keep their
// state (strikes, down, cooldown, drained, and the place at the end if they were
// demoted), whatever their new position is. New backends enter at their
// configured place. Attempts in progress on a removed backend continue.
//
// It returns the order before and after the change, as Order does: an attempt may change it
// at any other time.
func (p *Pool) Update(addresses []Address, cooldown time.Duration) (before, after []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before = p.Order()
	p.cooldown = cooldown
	existing := make(map[string]*Backend)
	for _, b := range p.backends() {
		existing[b.Text] = b
	}
	// The first backend that stays counts as never demoted if it is up. If all
	// backends were demoted at some time, new ones would otherwise all enter
	// before it.
	stays := func(b *Backend) bool { return slices.Contains(addresses, b.Address) }
	if i := slices.IndexFunc(p.backends(), stays); i >= 0 {
		if first := p.backends()[i]; !first.downAnywhere() {
			first.rank = 0
		}
	}
	order := make([]*Backend, 0, len(addresses))
	for i, a := range addresses {
		b := existing[a.Text]
		if b == nil || b.Address != a {
			b = newBackend(a)
		}
		b.configured = i
		order = append(order, b)
	}
	p.countDepartedLocked(order)
	p.sortLocked(order)
	for n := range networks {
		p.allDown[n].Store(p.allDown[n].Load() && available(order, n) == 0)
	}
	return before, p.Order()
}

// backends returns the current queue, which must not be modified.
func (p *Pool) backends() []*Backend {
	if order := p.order.Load(); order != nil {
		return *order
	}
	return nil
}

// sortLocked sorts backends and publishes them as the new queue: first those that
// were never demoted, as configured, then the demoted ones in the order of their
// demotions.
func (p *Pool) sortLocked(backends []*Backend) {
	slices.SortStableFunc(backends, func(a, b *Backend) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.configured, b.configured))
	})
	p.order.Store(&backends)
}

// Order returns the texts of the backends, first choice first.
func (p *Pool) Order() []string {
	backends := p.backends()
	texts := make([]string, len(backends))
	for i, b := range backends {
		texts[i] = b.Text
	}
	return texts
}

// Backend returns the backend of the queue with this text, or nil.
func (p *Pool) Backend(text string) *Backend {
	for _, b := range p.backends() {
		if b.Text == text {
			return b
		}
	}
	return nil
}

// failed records a failed attempt. stale reports whether the failure is outdated
// (see the package comment), and down whether the backend was down already. In
// both cases there is no strike. gap is that of [Walk.FailedWithin].
func (p *Pool) failed(a Attempt, now time.Time, gap time.Duration, err error, addr netip.AddrPort) (change Change, stale, down bool) {
	text := err.Error() // before locking, because it is foreign code
	p.mu.Lock()
	defer p.mu.Unlock()
	b, h := a.Backend, a.health()
	h.failed.Add(1)
	h.local.Store(false)
	h.lastFailure = Failure{At: now, Error: text, Address: addr}
	for {
		before := h.load()
		if before.outdates(a.seen, a.evidence) || before.has(strikeBit) && a.Began.Before(h.struckUntil) {
			return Change{}, true, false
		}
		after, strike := before.afterFailure(a.evidence)
		if !h.swap(before, after) {
			continue // a connect was concurrent
		}
		switch strike {
		case 0:
			return Change{}, false, true
		case 1:
			h.struckUntil = now.Add(gap)
			return p.withCountsLocked(Change{Strike: 1, ByCheck: after.has(checkBit)}, a.network), false, false
		default:
			return p.demoteLocked(b, a.network, now, after.has(checkBit)), false, false
		}
	}
}

// failedLocally records a local failure, and reports whether it begins an episode.
func (p *Pool) failedLocally(a Attempt, now time.Time, err error, addr netip.AddrPort) (first bool) {
	text := err.Error() // before locking, because it is foreign code
	p.mu.Lock()
	defer p.mu.Unlock()
	h := a.health()
	h.failedLocally.Add(1)
	h.lastFailure = Failure{At: now, Error: text, Address: addr}
	return !h.local.Swap(true)
}

// demoteLocked moves b to the end of the queue after its second strike and wakes
// the attempts that still wait for it.
func (p *Pool) demoteLocked(b *Backend, n Network, now time.Time, byCheck bool) Change {
	h := &b.health[n]
	h.demotions.Add(1)
	h.clearSuspicion()
	h.downSince = now
	change := Change{Strike: 2, Demoted: true, ByCheck: byCheck}
	if p.cooldown > 0 {
		change.CoolingUntil = now.Add(p.cooldown)
		h.cooling.Store(int64(change.CoolingUntil.Sub(p.epoch)))
	}
	waiting := *h.demoted.Load()
	h.replaceDemoted()
	close(waiting)

	p.lastRank++
	b.rank = p.lastRank
	change.Order = p.reorderLocked()
	change = p.withCountsLocked(change, n)
	if change.Available == 0 && !p.allDown[n].Load() {
		p.allDown[n].Store(true)
		change.AllUnavailable = true
	}
	return change
}

// reorderLocked sorts the queue by the ranks of its backends. It returns the new
// order, or nil if it did not change.
func (p *Pool) reorderLocked() []string {
	before := p.backends()
	after := slices.Clone(before)
	p.sortLocked(after)
	if slices.Equal(before, after) {
		return nil
	}
	return p.Order()
}

// withCountsLocked returns change with the numbers of available and all backends.
func (p *Pool) withCountsLocked(change Change, n Network) Change {
	backends := p.backends()
	change.Available, change.Total = available(backends, n), len(backends)
	return change
}

// available returns the number of backends that are neither drained nor down on n.
func available(backends []*Backend, n Network) (count int) {
	for _, b := range backends {
		if !b.drained.Load() && !b.Down(n) {
			count++
		}
	}
	return count
}

// succeeded records a successful attempt.
func (p *Pool) succeeded(a Attempt, now time.Time) Change {
	h := a.health()
	h.succeeded.Add(1)
	if h.local.Load() {
		h.local.Store(false)
	}
	h.clearSuspicion()
	if a.evidence == Listens && p.connected(h, a.network) {
		return Change{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	before := h.load()
	for !h.swap(before, before.afterSuccess(a.evidence)) {
		before = h.load() // a connect was concurrent
	}
	ended := before.endsBy(a.evidence)
	if ended || !before.has(downBit) {
		p.allDown[a.network].Store(false)
	}
	if !ended || !before.has(downBit) {
		return Change{}
	}
	change := p.withCountsLocked(Change{Recovered: true, DownFor: now.Sub(h.downSince)}, a.network)
	h.clearDownLocked()
	return change
}

// connected records a connect without a lock if it ends no state. It reports
// whether it has. The lock is also needed to clear allDown. That may be set
// although this backend is up: it was drained when all_backends_unavailable was
// reported.
func (p *Pool) connected(h *health, n Network) (recorded bool) {
	for {
		before := h.load()
		if before.endsBy(Listens) || !before.has(downBit) && p.allDown[n].Load() {
			return false
		}
		if h.swap(before, before.afterSuccess(Listens)) {
			return true
		}
	}
}
