package upstream

import (
	"net/netip"
	"slices"
	"time"
)

// Verdict says what a client does after a failed attempt.
type Verdict uint8

const (
	// Next: this client is through with the backend; go on with [Walk.Next].
	Next Verdict = iota
	// Retry the same backend at once, over a fresh lookup, with [Walk.Again].
	Retry
	// RetryIfChanged: look up afresh; [Walk.Again] if the addresses are others
	// than those that just failed, else [Walk.Exhaust] and [Walk.Next].
	RetryIfChanged
)

// Attempt is one try of one backend by one client.
type Attempt struct {
	Backend *Backend
	Began   time.Time // what a fresh lookup must be younger than

	network    Network
	generation uint64
	second     bool
	demoted    <-chan struct{}
}

func (a Attempt) health() *health { return &a.Backend.health[a.network] }

// Second says whether this is the client's second attempt on the backend.
func (a Attempt) Second() bool { return a.second }

// Demoted is closed when the backend is demoted by anybody after the attempt
// began: those who still wait for it start on the next backend at once.
func (a Attempt) Demoted() <-chan struct{} { return a.demoted }

func (a Attempt) wasDemoted() bool {
	select {
	case <-a.demoted:
		return true
	default:
		return false
	}
}

// Walk is one client's way through the queue, or one probe's of a single
// backend. It belongs to one goroutine; the pool behind it is shared.
type Walk struct {
	pool      *Pool
	network   Network
	only      *Backend   // a probe's
	exhausted []*Backend // those this client is through with; nil in good times
}

// Walk begins a client's way through the queue.
func (p *Pool) Walk(n Network) Walk { return Walk{pool: p, network: n} }

// Probe begins a walk that knows b alone, whatever its place, cooldown or
// drain: its failures are strikes like a client's.
func (p *Pool) Probe(b *Backend, n Network) Walk { return Walk{pool: p, network: n, only: b} }

// Next begins an attempt on the first backend of the queue that this client is
// not through with. Cooling backends are passed over while there is another,
// then tried, the longest-cooled first. ok is false when every backend that is
// not drained was tried. It takes no lock and, before the first failure,
// allocates nothing.
func (w *Walk) Next(now time.Time) (a Attempt, ok bool) {
	if w.only != nil {
		if w.through(w.only) {
			return Attempt{}, false
		}
		return w.begin(w.only, now), true
	}
	elapsed := int64(now.Sub(w.pool.epoch))
	var cooling *Backend
	var coolingUntil int64
	for _, b := range w.pool.backends() {
		if b.drained.Load() || w.through(b) {
			continue
		}
		until := b.health[w.network].cooling.Load()
		if until <= elapsed {
			return w.begin(b, now), true
		}
		if cooling == nil || until < coolingUntil {
			cooling, coolingUntil = b, until
		}
	}
	if cooling == nil {
		return Attempt{}, false
	}
	return w.begin(cooling, now), true
}

// Resume begins an attempt on b, wherever it stands: for a UDP session that
// has its backend and begins to wait for its next answer. What this walk
// exhausted before is forgotten: the answer that came since ended that round.
func (w *Walk) Resume(b *Backend, now time.Time) Attempt {
	w.exhausted = w.exhausted[:0]
	return w.begin(b, now)
}

// Again begins the second attempt on a's backend. ok is false if this client
// had its second attempt already.
func (w *Walk) Again(a Attempt, now time.Time) (again Attempt, ok bool) {
	if a.second {
		return Attempt{}, false
	}
	again = w.begin(a.Backend, now)
	again.second = true
	return again, true
}

func (w *Walk) begin(b *Backend, now time.Time) Attempt {
	h := &b.health[w.network]
	// The channel before the generation: a demotion in between then closes the
	// channel held, and the attempt is at worst told of it a step early.
	demoted := *h.demoted.Load()
	return Attempt{Backend: b, Began: now, network: w.network, generation: generation(h.word.Load()), demoted: demoted}
}

// Failed reports a failure that is the backend's. err is kept for status.
func (w *Walk) Failed(a Attempt, now time.Time, err error) (Verdict, Change) {
	return w.FailedAt(a, now, err, netip.AddrPort{})
}

// FailedAt is Failed with the address that was tried last, which is kept with
// the failure.
func (w *Walk) FailedAt(a Attempt, now time.Time, err error, addr netip.AddrPort) (Verdict, Change) {
	change, stale, down := w.pool.failed(a, now, err, addr)
	switch {
	case a.second, change.Demoted, stale && a.wasDemoted():
		w.Exhaust(a.Backend)
		return Next, change
	case down:
		return RetryIfChanged, change
	default:
		return Retry, change
	}
}

// Succeeded reports that the backend serves: a TCP connect, or the first
// datagram from it. Order stays as it is; strikes, down and cooldown end.
func (w *Walk) Succeeded(a Attempt, now time.Time) Change { return w.pool.succeeded(a, now) }

// Exhaust ends b for this client without a strike: a failure of our own side,
// or a demotion by others.
func (w *Walk) Exhaust(b *Backend) {
	if !w.through(b) {
		w.exhausted = append(w.exhausted, b)
	}
}

func (w *Walk) through(b *Backend) bool { return slices.Contains(w.exhausted, b) }
