package handler

import "time"

// This file contains which session of a table is evicted. budget.go contains which
// table has to give one.

// silentFor is how long a session without an answer must be silent so that it is
// evicted first. Its client is then not waiting for a first answer any more.
const silentFor = time.Second

// order is which session is evicted.
type order uint8

const (
	longestIdle    order = iota // a session without an answer if it has been silent for silentFor, else the longest-idle one of all
	unansweredOnly              // the longest-idle session without an answer
	silentOnly                  // the same, if it has been silent for silentFor
)

// evict removes a session from the table and returns it, or nil if there is none.
// The caller must end it. With needSocket it has a socket.
func (t *sessions) evict(order order, needSocket bool) *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.evictLocked(order, needSocket)
}

func (t *sessions) evictLocked(order order, needSocket bool) *session {
	victim := t.longestIdleLocked(false, needSocket)
	silent := victim != nil && victim.idleFor() >= silentFor
	switch {
	case silent, order == unansweredOnly:
	case order == silentOnly:
		victim = nil
	default:
		victim = idleLonger(victim, t.longestIdleLocked(true, needSocket))
	}
	if victim != nil {
		t.removeLocked(victim)
	}
	return victim
}

// longestIdleLocked returns the longest-idle session of those that have had an
// answer or of the others, or nil if there is none.
func (t *sessions) longestIdleLocked(answered, needSocket bool) *session {
	s := t.queueOf(answered, true).first()
	if !needSocket {
		s = idleLonger(s, t.queueOf(answered, false).first())
	}
	return s
}

// idleLonger returns the session that has been idle for longer. Both may be nil.
func idleLonger(a, b *session) *session {
	if a == nil || b != nil && b.used.Load() < a.used.Load() {
		return b
	}
	return a
}
