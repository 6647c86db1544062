package handler

import (
	"time"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file holds UDP sessions while no backend accepts them, like hold.go does with
// TCP clients. A held session queues datagrams as one that waits for a lookup does.

// sessionHold is the hold of a session. It lasts until the session is served or
// refused, with pauses in which the session tries the backends.
type sessionHold struct {
	deadline time.Time // of the option hold; zero: an operator's hold
	entered  time.Time
	waiting  bool        // the session is held now; false: it tries the backends
	timer    *time.Timer // calls checkHold at the deadline
	woken    time.Time   // when the session began to try the backends
	pause    time.Duration
}

// holdLocked holds a session for which every backend was tried, and reports whether
// it has.
func (s *session) holdLocked() bool {
	limit := s.relay.opts.Hold
	if limit == 0 || len(s.backlog.datagrams) == 0 {
		return false
	}
	e, now := s.extrasLocked(), time.Now()
	if h := e.hold; h == nil || h.deadline.IsZero() || !h.woken.IsZero() && now.Sub(h.woken) > limit+takenFor { // it was served meanwhile
		e.hold = &sessionHold{deadline: now.Add(limit)}
		s.note(heldUDP)
	}
	h := e.hold
	left := h.deadline.Sub(now)
	if left <= 0 || !s.enterHoldLocked(now, true) {
		return false
	}
	h.timer = time.AfterFunc(left, func() { s.checkHold(h) })
	return true
}

// holdForOperatorLocked holds a new client while an operator holds the service, and
// reports whether it has.
func (s *session) holdForOperatorLocked() bool {
	if !s.relay.service.holds.requested.Load() {
		return false
	}
	s.forgetHoldLocked() // without a pause: nothing but the release wakes the session
	s.extrasLocked().hold = new(sessionHold)
	return s.enterHoldLocked(time.Now(), false)
}

func (s *session) enterHoldLocked(now time.Time, recheck bool) bool {
	s.stopAttemptLocked()
	if !s.relay.service.holds.enterSession(s, recheck) {
		return false
	}
	h := s.extras.hold
	s.phase, s.waiting = held, false
	h.waiting, h.entered = true, now
	return true
}

// leaveHoldLocked ends what enterHoldLocked has begun.
func (s *session) leaveHoldLocked() {
	if s.extras == nil || s.extras.hold == nil || !s.extras.hold.waiting {
		return
	}
	h := s.extras.hold
	h.waiting = false
	s.extras.held += time.Since(h.entered)
	if h.timer != nil {
		h.timer.Stop()
	}
	s.relay.service.holds.leaveSession(s)
}

// forgetHoldLocked makes the next hold of the session a new one.
func (s *session) forgetHoldLocked() {
	if s.extras != nil && s.extras.hold != nil {
		s.leaveHoldLocked()
		s.extras.hold = nil
	}
}

// checkHold refuses the session at the end of the option hold, after an attempt on
// the backends that a check has condemned, if there are any.
func (s *session) checkHold(h *sessionHold) {
	defer s.guard()
	s.lock()
	defer s.unlock()
	now := time.Now()
	switch {
	case s.extras.hold != h || !h.waiting || now.Before(h.deadline):
	case s.relay.service.condemned(upstream.UDP):
		s.leaveHoldLocked()
		h.woken = now
		s.phase, s.walk = searching, s.relay.service.Pool.Walk(upstream.UDP)
		s.nextBackendLocked()
	default:
		s.refuseLocked(s.lastErr)
	}
}

// wakeHeld makes a held session try the backends. closed refuses it instead. A
// session that was woken in vain pauses before the next time: its backend may accept
// datagrams and fail afterwards.
func (s *session) wakeHeld(closed bool) {
	defer s.guard()
	s.lock()
	defer s.unlock()
	if s.phase != held {
		return
	}
	h, now := s.extras.hold, time.Now()
	switch {
	case closed:
		s.refuseLocked(errStopping)
	case now.Sub(h.entered) < h.pause:
	default:
		h.woken = now
		if !h.deadline.IsZero() {
			h.pause = min(max(2*h.pause, recheckEvery), maxWakePause)
		}
		s.startRoundLocked()
	}
}

// enterSession counts a held session. It returns false if it is not to be held.
func (h *holds) enterSession(s *session, recheck bool) bool {
	current := recheck && !s.relay.isRetired()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || !recheck && !h.requested.Load() {
		return false
	}
	h.waiting.Add(1)
	if h.sessions == nil {
		h.sessions = make(map[*session]struct{})
	}
	h.sessions[s] = struct{}{}
	if recheck {
		h.startRecheckLocked(s.relay, upstream.UDP, current)
	}
	return true
}

// leaveSession ends what enterSession has begun.
func (h *holds) leaveSession(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sessions, s)
	h.waiting.Add(-1)
	if len(h.sessions) == 0 {
		h.sessions = nil // its memory may be large
		h.recheck[upstream.UDP].end()
	}
}

// wakeSessionsLocked wakes all held sessions, on a goroutine: the caller may hold the
// lock of one of them.
func (h *holds) wakeSessionsLocked() {
	if len(h.sessions) == 0 {
		return
	}
	list := make([]*session, 0, len(h.sessions))
	for s := range h.sessions {
		list = append(list, s)
	}
	closed := h.closed
	go func() { // ends when all of them are awake
		for _, s := range list {
			s.wakeHeld(closed)
		}
	}()
}

// anySession returns one of the held sessions; nil if there is none. The same one
// may not get an answer from any backend, so each call returns another.
func (h *holds) anySession() *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.sessions { // in random order
		return s
	}
	return nil
}

// heldDatagram returns a copy of the first datagram that the session would send, and
// whether its attempts have failed because the backends' ports are closed. ok is
// false if there is none.
func (s *session) heldDatagram() (datagram []byte, closedPort, ok bool) {
	defer s.guard()
	s.lock()
	defer s.unlock()
	if s.phase != held || len(s.backlog.datagrams) == 0 {
		return nil, false, false
	}
	if s.relay.opts.ProxyProtocol == ProxyProtocolV2 {
		datagram = append(datagram, s.relay.opts.ProxyProtocol.datagramHeader(s.key)...)
	}
	return append(datagram, s.backlog.datagrams[0]...), dgram.Refused(s.lastErr), true
}
