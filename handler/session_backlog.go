package handler

import "time"

// This file contains how [Backlogs] takes memory from a session.

// freeSpare frees the spare memory of the backlog. It returns when the oldest
// datagram arrived; ok is false if there is none.
func (s *session) freeSpare() (arrived time.Duration, ok bool) {
	defer s.guard()
	s.lock()
	defer s.unlock()
	s.backlog.freeSpare(0)
	return s.oldestLocked()
}

// dropOldest drops the oldest datagram if it arrived at the given time. It returns
// when the oldest of the remaining ones arrived; ok is false if there is none.
func (s *session) dropOldest(at time.Duration) (arrived time.Duration, ok bool) {
	defer s.guard()
	s.lock()
	defer s.unlock()
	if arrived, ok := s.oldestLocked(); !ok || arrived != at {
		return arrived, ok // answered in the meantime
	}
	if s.queuesLocked() {
		// On an open socket it was sent: only the copy is lost, as in trim.
		s.dropLocked(backlogsFull, s.backlog.datagrams[0])
		s.requests--
		s.countUpLocked()
	}
	s.backlog.remove(0)
	s.backlog.freeSpare(0)
	if s.queuesLocked() && len(s.backlog.datagrams) == 0 {
		s.cancelRoundLocked()
	}
	return s.oldestLocked()
}

// queuesLocked reports whether the session queues datagrams without sending them.
func (s *session) queuesLocked() bool { return s.phase == searching || s.phase == held }

// clearBacklogLocked removes all datagrams.
func (s *session) clearBacklogLocked() { s.backlog.clear(s.relay.opts.Backlogs.retain()) }

func (s *session) oldestLocked() (arrived time.Duration, ok bool) {
	if len(s.backlog.datagrams) == 0 {
		return 0, false
	}
	return s.backlog.arrived[0], true
}

// cancelRoundLocked ends a round that has no datagrams any more, so that no socket
// is opened for it. The next datagram starts a new one.
func (s *session) cancelRoundLocked() {
	s.stopAttemptLocked()
	s.forgetHoldLocked()
	s.phase, s.refusedUntil, s.lastErr = refused, 0, nil
	s.waiting, s.requests, s.answers = false, 0, 0
}
