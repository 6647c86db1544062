package upstream

import (
	"net/netip"
	"slices"
	"time"
)

// Verdict tells a client what to do after a failed attempt.
type Verdict uint8

const (
	// Next means that the client has exhausted the backend. Continue with
	// [Walk.Next].
	Next Verdict = iota
	// Retry means to look the name up again and to retry the same backend at
	// once, with [Walk.Again].
	Retry
	// RetryIfChanged means to look the name up again. If the addresses differ
	// from those that just failed, call [Walk.Again], else [Walk.Exhaust] and
	// [Walk.Next].
	RetryIfChanged
)

// Attempt is one attempt of one client on one backend.
type Attempt struct {
	Backend *Backend
	Began   time.Time // a lookup for the retry must be newer than this

	network  Network
	evidence Evidence
	second   bool            // the client's second attempt on the backend
	seen     word            // of the backend when the attempt began
	demoted  <-chan struct{} // closed when the backend is demoted after the attempt began
}

func (a Attempt) health() *health { return &a.Backend.health[a.network] }

// Second reports whether this is the client's second attempt on the backend.
func (a Attempt) Second() bool { return a.second }

// Demoted returns a channel that is closed when failures of any client demote the
// backend after the attempt began. A client that still waits for the backend then
// starts an attempt on the next one.
func (a Attempt) Demoted() <-chan struct{} { return a.demoted }

// Recovers reports whether the backend is down and a success of this attempt would
// end that.
func (a Attempt) Recovers() bool {
	w := a.health().load()
	return w.has(downBit) && w.endsBy(a.evidence)
}

// Ends reports whether a success of this attempt ends a strike or down that the
// backend had when the attempt began.
func (a Attempt) Ends() bool { return a.seen.endsBy(a.evidence) }

func (a Attempt) wasDemoted() bool {
	select {
	case <-a.demoted:
		return true
	default:
		return false
	}
}

// Walk is the way of one client through the queue, or of one probe to its backend.
// A Walk must be used by one goroutine at a time. Its pool is shared.
type Walk struct {
	pool      *Pool
	network   Network
	evidence  Evidence
	only      *Backend   // the backend of a probe; nil: a client
	exhausted []*Backend // backends this client must not try again

	passOverCondemned bool // Next offers no backend that a check has condemned
}

// Walk returns a walk for a new client.
func (p *Pool) Walk(n Network) Walk { return Walk{pool: p, network: n} }

// Probe returns a walk for a health check of b. It offers only b, whatever its
// place is and even if it is cooling or drained. Failures of the probe are strikes
// like those of a client. e is the evidence of its results.
func (p *Pool) Probe(b *Backend, n Network, e Evidence) Walk {
	return Walk{pool: p, network: n, evidence: e, only: b}
}

// PassOverCondemned makes Next pass over backends that a check has condemned.
func (w *Walk) PassOverCondemned() { w.passOverCondemned = true }

// Next begins an attempt on the first backend of the queue that this client has
// not exhausted and that is not drained. Suspects whose trial has no result come
// after all others that are not down, and cooling backends after all, the one whose
// cooldown ends first before the rest. ok is false if no backend is left. Next takes
// no lock and does not allocate.
func (w *Walk) Next(now time.Time) (a Attempt, ok bool) {
	if w.only != nil {
		if w.hasExhausted(w.only) {
			return Attempt{}, false
		}
		return w.begin(w.only, now), true
	}
	elapsed := int64(now.Sub(w.pool.epoch))
	var suspect, cooling *Backend
	var coolingUntil int64
	for _, b := range w.pool.backends() {
		if b.drained.Load() || w.hasExhausted(b) || w.passOverCondemned && b.Condemned(w.network) {
			continue
		}
		h := &b.health[w.network]
		until := h.cooling.Load()
		if until <= elapsed {
			if suspect != nil && h.load().has(downBit) {
				continue // what this instance has found weighs more than a suspicion
			}
			if !h.passedOver(elapsed) {
				return w.begin(b, now), true
			}
			if suspect == nil {
				suspect = b
			}
			continue
		}
		if cooling == nil || until < coolingUntil {
			cooling, coolingUntil = b, until
		}
	}
	switch {
	case suspect != nil:
		return w.begin(suspect, now), true
	case cooling == nil:
		return Attempt{}, false
	}
	return w.begin(cooling, now), true
}

// Beside is Next for an attempt in parallel with one on the backend running. As the
// client has a backend left, Beside offers none that is cooling or that a check has
// condemned: such a backend would often connect first. Suspects come after the
// others.
func (w *Walk) Beside(running *Backend, now time.Time) (a Attempt, ok bool) {
	elapsed := int64(now.Sub(w.pool.epoch))
	var suspect *Backend
	for _, b := range w.pool.backends() {
		if b == running || b.drained.Load() || w.hasExhausted(b) || b.Condemned(w.network) {
			continue
		}
		if b.health[w.network].cooling.Load() > elapsed {
			continue
		}
		if !b.Suspected(w.network) {
			return w.begin(b, now), true
		}
		if suspect == nil {
			suspect = b
		}
	}
	if suspect == nil {
		return Attempt{}, false
	}
	return w.begin(suspect, now), true
}

// Resume begins an attempt on b, whatever its place and state. It is for a UDP
// session whose backend has answered and that now waits for the next answer. That
// answer ended the earlier round of attempts, so Resume clears the list of
// exhausted backends.
func (w *Walk) Resume(b *Backend, now time.Time) Attempt {
	w.exhausted = w.exhausted[:0]
	return w.begin(b, now)
}

// Again begins the second attempt on the backend of a. ok is false if a was the
// second attempt already.
func (w *Walk) Again(a Attempt, now time.Time) (again Attempt, ok bool) {
	if a.second {
		return Attempt{}, false
	}
	again = w.begin(a.Backend, now)
	again.second = true
	return again, true
}

// begin returns a first attempt on b.
func (w *Walk) begin(b *Backend, now time.Time) Attempt {
	h := &b.health[w.network]
	// The channel must be read before the word. A demotion between the two
	// reads then closes the channel of this attempt although the attempt counts
	// as newer than the demotion, which is harmless. In the other order the
	// attempt would miss the demotion.
	demoted := *h.demoted.Load()
	return Attempt{Backend: b, Began: now, network: w.network, evidence: w.evidence, seen: h.load(), demoted: demoted}
}

// Failed records a failure caused by the backend and returns what the client must
// do. err is kept for [Pool.Snapshot].
func (w *Walk) Failed(a Attempt, now time.Time, err error) (Verdict, Change) {
	return w.FailedAt(a, now, err, netip.AddrPort{})
}

// FailedAt is like Failed, and keeps the address that was tried last with the
// failure.
func (w *Walk) FailedAt(a Attempt, now time.Time, err error, addr netip.AddrPort) (Verdict, Change) {
	return w.FailedWithin(0, a, now, err, addr)
}

// FailedWithin is like FailedAt for a failure that others may share, because the
// backend fails for a moment only: if it is the first strike, attempts that began
// less than gap after it cause no second one.
func (w *Walk) FailedWithin(gap time.Duration, a Attempt, now time.Time, err error, addr netip.AddrPort) (Verdict, Change) {
	change, stale, down := w.pool.failed(a, now, gap, err, addr)
	if w.only != nil {
		a.health().failedChecks.Add(1)
	}
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

// FailedLocally records a failure of this machine: it is no strike, and the backend
// is exhausted for this client, because a second attempt would fail in the same
// way. first reports whether it begins an episode, which ends with the next attempt
// that fails by the backend's fault or succeeds.
func (w *Walk) FailedLocally(a Attempt, now time.Time, err error, addr netip.AddrPort) (first bool) {
	w.Exhaust(a.Backend)
	return w.pool.failedLocally(a, now, err, addr)
}

// Succeeded records a success: a TCP connect, the first datagram from the backend
// or a passed check. It ends a strike, down and cooldown, unless they are due to
// stronger evidence. The order does not change.
func (w *Walk) Succeeded(a Attempt, now time.Time) Change { return w.pool.succeeded(a, now) }

// Exhaust makes this client skip b from now on, without a strike. It is for local
// failures and for demotions by other clients.
func (w *Walk) Exhaust(b *Backend) {
	if !w.hasExhausted(b) {
		w.exhausted = append(w.exhausted, b)
	}
}

func (w *Walk) hasExhausted(b *Backend) bool { return slices.Contains(w.exhausted, b) }
