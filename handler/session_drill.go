package handler

import "time"

// This file injects the faults of drills into the attempts of UDP sessions.

// sessionDrill is the latest drill whose fault a session has met.
type sessionDrill struct {
	*drill
	since time.Time // when the session met it first in this round
}

// drillLocked injects a fault into an attempt that is about to open its socket. It
// returns true if the socket is to be opened now.
func (s *session) drillLocked(d *drill) bool {
	if e := s.extrasLocked(); e.drill.drill == nil {
		e.drill = sessionDrill{d, time.Now()}
	}
	switch d.fault {
	case FaultRefuse, FaultReset:
		s.at = max(len(s.addrs)-1, 0)
		s.attemptFailedLocked(errDrillRefused)
		return false
	case FaultSlow:
		a := s.attempt
		time.AfterFunc(slowBy, func() { // does nothing if the attempt has ended
			defer s.guard()
			s.lock()
			defer s.unlock()
			if s.phase == searching && s.attempt == a {
				s.openNowLocked()
			}
		})
		return false
	default: // FaultSilent is in sendLocked
		return true
	}
}

// drilled reports whether a drill keeps the socket from sending.
func (b *backendSocket) drilled() bool { return b.drill != nil && !b.drill.over.Load() }

// drillServedLocked counts an answer for a drill whose fault the session has met.
func (s *session) drillServedLocked(now time.Time) {
	if s.extras == nil || s.extras.drill.drill == nil {
		return
	}
	if met := s.extras.drill; met.backend != s.attempt.Backend {
		met.served(now.Sub(met.since))
	}
	s.extras.drill = sessionDrill{}
}

// drillRefusedLocked counts the refusal of a session for a drill whose fault it has
// met.
func (s *session) drillRefusedLocked() {
	if s.extras != nil && s.extras.drill.drill != nil {
		s.extras.drill.refused.Add(1)
		s.extras.drill = sessionDrill{}
	}
}
