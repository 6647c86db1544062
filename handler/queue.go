package handler

import (
	"fmt"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// This file changes the queue of a service. A change and its journal entry are
// one step under Journal.mu, so the entries stand in the order of the changes,
// and the last one agrees with the queue.

// Reset restores the configured order of the backends and clears strikes, down
// and cooldown. by is where the request came from, for the journal.
func (s *Service) Reset(by string) {
	s.Journal.mu.Lock()
	defer s.Journal.mu.Unlock()
	change := s.Pool.Reset()
	s.Journal.addLocked(Entry{Kind: KindReset, By: by, Order: change.Order})
}

// SetDrained stops sending new clients to a backend, or resumes, and reports
// whether that is a change. by is where the request came from, for the journal.
// The errors are those of [upstream.Pool.SetDrained].
func (s *Service) SetDrained(b *upstream.Backend, drained bool, by string) (changed bool, err error) {
	s.Journal.mu.Lock()
	defer s.Journal.mu.Unlock()
	changed, err = s.Pool.SetDrained(b, drained)
	if changed {
		kind := KindDrain
		if !drained {
			kind = KindResume
			s.drains.stop(b)
		}
		s.Journal.addLocked(Entry{Kind: kind, Backend: b.Text, By: by})
	}
	return changed, err
}

// failback moves a demoted backend to its configured position.
func (s *Service) failback(b *upstream.Backend) upstream.Change {
	s.Journal.mu.Lock()
	defer s.Journal.mu.Unlock()
	change := s.Pool.Failback(b)
	if change.Order != nil {
		s.Journal.addLocked(Entry{Kind: KindFailback, Backend: b.Text, By: healthCheckName, Order: change.Order})
	}
	return change
}

// attemptFailed reports a failure that is the backend's to the queue. by is the
// client or the health check.
func (s *Service) attemptFailed(walk *upstream.Walk, o outcome, n upstream.Network, by fmt.Stringer) (upstream.Verdict, upstream.Change) {
	s.Journal.mu.Lock()
	defer s.Journal.mu.Unlock()
	verdict, change := walk.FailedWithin(s.rebinds.gapOf(n, o.err), o.attempt, time.Now(), o.err, o.at())
	s.Journal.addAttemptLocked(change, o, n, by)
	return verdict, change
}

// attemptFailedLocally reports a failure of this machine to the queue, and returns
// whether it begins an episode. Only then it enters the journal. by is the client or
// the health check.
func (s *Service) attemptFailedLocally(walk *upstream.Walk, o outcome, n upstream.Network, by fmt.Stringer) (first bool) {
	s.Journal.mu.Lock()
	defer s.Journal.mu.Unlock()
	first = walk.FailedLocally(o.attempt, time.Now(), o.err, o.at())
	if first {
		e := Entry{Kind: KindLocal, Network: n.String(), Backend: o.attempt.Backend.Text, Cause: o.err.Error(), By: by.String()}
		if addr := o.at(); addr.IsValid() {
			e.Address = addr.String()
		}
		s.Journal.addLocked(e)
	}
	return first
}

// attemptSucceeded reports a success to the queue. It takes no lock unless the
// success ends that the backend is down. by is the client or the health check.
func (s *Service) attemptSucceeded(walk *upstream.Walk, o outcome, n upstream.Network, by fmt.Stringer, now time.Time) (change upstream.Change) {
	recovers := o.attempt.Recovers()
	if !recovers {
		change = walk.Succeeded(o.attempt, now)
		if !change.Recovered {
			return change
		}
		// Other clients demoted the backend after it was seen up.
	}
	s.Journal.mu.Lock()
	defer s.Journal.mu.Unlock()
	switch {
	case recovers:
		change = walk.Succeeded(o.attempt, now)
	case o.attempt.Backend.Down(n):
		return change // demoted again: an entry here would contradict the queue
	}
	s.Journal.addAttemptLocked(change, o, n, by)
	return change
}
