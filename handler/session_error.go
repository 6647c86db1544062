package handler

import (
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/dgram"
)

// This file contains how a session handles ICMP errors about what it has sent.

const (
	// unreachableAfter is how long a backend must be silent before a report that
	// it is unreachable counts. Any host can send such a report, but only a dead
	// backend is silent too. The kernel's own report about a neighbour takes
	// longer than that.
	unreachableAfter = time.Second
	// unreadDelay is how long such a report waits at least. An answer may be in
	// the socket's queue already: errors are read before datagrams.
	unreadDelay = 10 * time.Millisecond
)

// unreachable is a report that the backend is unreachable. It makes the socket
// fail when it is due, unless the backend answers until then.
type unreachable struct {
	err   error
	due   time.Time
	timer *time.Timer // calls checkUnreachable
}

// socketErrorLocked handles an error that the socket has received.
func (s *session) socketErrorLocked(b *backendSocket, err error) {
	switch dgram.Judge(err) {
	case dgram.BackendFailed:
		s.socketFailedLocked(err)
	case dgram.Unreachable:
		if s.waiting {
			s.failIfSilentLocked(b, err)
		}
	case dgram.DatagramLost:
		s.note(dropped, zap.Error(err))
	case dgram.Ignored:
		s.note(icmpIgnored, zap.String("backend", s.attempt.Backend.Text), zap.Error(err))
	}
}

// failIfSilentLocked makes the socket fail with err if the backend has been silent
// for unreachableAfter. One timer serves all reports until the next answer.
func (s *session) failIfSilentLocked(b *backendSocket, err error) {
	e := s.extrasLocked()
	if e.unreachable != nil {
		return
	}
	silentSince := s.since
	if opened := s.relay.service.sessions.epoch.Add(b.opened); opened.After(silentSince) {
		silentSince = opened
	}
	now := time.Now()
	u := &unreachable{err: err, due: silentSince.Add(unreachableAfter)}
	if soonest := now.Add(unreadDelay); u.due.Before(soonest) {
		u.due = soonest
	}
	u.timer = time.AfterFunc(u.due.Sub(now), func() { s.checkUnreachable(u) })
	e.unreachable = u
}

// checkUnreachable is called by the timer of a report.
func (s *session) checkUnreachable(u *unreachable) {
	defer s.guard()
	s.lock()
	defer s.unlock()
	if s.extras.unreachable != u { // the backend has answered, or the socket was closed
		return
	}
	if time.Since(u.due) >= lateTimer {
		u.due = time.Now().Add(catchUp)
		u.timer.Reset(catchUp)
		return
	}
	s.socketFailedLocked(u.err)
}

// forgetUnreachableLocked drops the report that the backend is unreachable.
func (s *session) forgetUnreachableLocked() {
	if s.extras != nil && s.extras.unreachable != nil {
		s.extras.unreachable.timer.Stop()
		s.extras.unreachable = nil
	}
}
