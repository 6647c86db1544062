package upstream

import "time"

// This file keeps suspicions. Other instances of the relay have demoted a suspect,
// and this one has not tried it since. A suspicion changes which attempts are made,
// and never what a failure is: it is no strike, moves nothing in the queue and ends
// with the first result of this instance.
//
//	       Suspect               BeginTrial
//	none ----------> suspected -----------> on trial
//	 ^                |   ^                  |    |
//	 |                |   +------------------+    |
//	 |                |     EndTrial, or the      |
//	 |                |     trial's end passed    |
//	 +----------------+---------------------------+
//	   a success, a demotion, Reset, Unsuspect
//
// The client that begins the trial is the next one. It does not wait for the suspect
// as long as for other backends. Next passes over a suspect from the time on at
// which that client stopped waiting, until the trial has a result. So one client
// pays, and a suspicion that is wrong sends no second client to another backend.

// suspicion is the suspicion of a backend on one network. Its fields are times in
// nanoseconds after Pool.epoch, and never change.
type suspicion struct {
	since, passFrom, passUntil int64
	began                      int64 // of the attempt that has begun the trial
}

// Suspect makes b a suspect on n. It does nothing and returns false if b is one
// already, is down, or has left the queue.
func (p *Pool) Suspect(b *Backend, n Network, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := &b.health[n]
	if h.suspicion.Load() != nil || h.load().has(downBit) || p.Backend(b.Text) != b {
		return false
	}
	h.suspicion.Store(&suspicion{since: int64(now.Sub(p.epoch))})
	return true
}

// Unsuspect ends the suspicion of b on n, and reports whether there was one.
func (p *Pool) Unsuspect(b *Backend, n Network) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return b.health[n].suspicion.Swap(nil) != nil
}

// Suspected reports whether b is a suspect on n.
func (b *Backend) Suspected(n Network) bool { return b.health[n].suspicion.Load() != nil }

// Suspect reports whether the attempt is made on a suspect.
func (a Attempt) Suspect() bool { return a.health().suspicion.Load() != nil }

// BeginTrial makes the client of a the one that tries a suspect. From from on, Next
// passes over the suspect until the trial has a result, at most until until. It
// returns false if the backend is no suspect or another trial has not ended.
func (w *Walk) BeginTrial(a Attempt, from, until time.Time) bool {
	p, h := w.pool, a.health()
	p.mu.Lock()
	defer p.mu.Unlock()
	s := h.suspicion.Load()
	if s == nil || int64(a.Began.Sub(p.epoch)) < s.passUntil {
		return false
	}
	trial := &suspicion{since: s.since, passFrom: int64(from.Sub(p.epoch)), passUntil: int64(until.Sub(p.epoch)), began: int64(a.Began.Sub(p.epoch))}
	return h.suspicion.CompareAndSwap(s, trial) // fails after a concurrent success
}

// EndTrial ends the trial that a has begun, if it has no result: the next client
// tries the suspect.
func (w *Walk) EndTrial(a Attempt) {
	w.pool.mu.Lock()
	defer w.pool.mu.Unlock()
	h := a.health()
	if s := h.suspicion.Load(); s != nil && s.passUntil != 0 && s.began == int64(a.Began.Sub(w.pool.epoch)) {
		h.suspicion.CompareAndSwap(s, &suspicion{since: s.since}) // fails after a concurrent success
	}
}

// passedOver reports whether Next offers the backend only to clients that have no
// other one, because it is a suspect whose trial has no result. elapsed is the time
// since Pool.epoch.
func (h *health) passedOver(elapsed int64) bool {
	s := h.suspicion.Load()
	return s != nil && s.passFrom <= elapsed && elapsed < s.passUntil
}

// clearSuspicion ends the suspicion after a result.
func (h *health) clearSuspicion() {
	if h.suspicion.Load() != nil {
		h.suspicion.Store(nil)
	}
}
