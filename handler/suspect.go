package handler

import (
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/upstream"
)

// This file tries suspects: backends that another instance of the relay has demoted.
// The first client after that tries the suspect, but the next backend is dialled in
// parallel after suspectPatience, or at once with hedge. The attempt on the suspect
// continues without the client, as a hedged one does: see [judges]. Its failures are
// strikes under the rules of all attempts, so a claim of another instance demotes
// nothing here. Until the attempt has a result, further clients pass over the suspect.
//
// On UDP, one session tries the suspect as long as any backend, and the others pass
// over it meanwhile. Without udp_reply_timeout no session waits for a backend that
// does not answer, so there is nothing to avoid.

// suspectPatience is how long a client waits for a suspect alone. It leaves the next
// backend time to serve the client within a second.
const suspectPatience = 800 * time.Millisecond

// Suspect makes a backend a suspect on a network, because by has demoted it: another
// instance. It returns false if the backend is down here, or a suspect already.
func (s *Service) Suspect(b *upstream.Backend, n upstream.Network, by string) bool {
	s.Journal.mu.Lock()
	defer s.Journal.mu.Unlock()
	if !s.Pool.Suspect(b, n, time.Now()) {
		return false
	}
	s.Journal.addLocked(Entry{Kind: KindSuspect, Network: n.String(), Backend: b.Text, By: by})
	return true
}

// beginTrial makes this client the one that tries a suspect, unless there is one.
func (t *attempts) beginTrial(a upstream.Attempt) {
	if !a.Suspect() || a.Second() {
		return
	}
	if !t.walk.BeginTrial(a, a.Began.Add(t.patience()), a.Began.Add(trialLimit(t.relay.opts.ConnectTimeout))) {
		return
	}
	t.trials = append(t.trials, a)
	t.relay.logSuspect(a, upstream.TCP, t.of.client)
}

// patience returns how long a client waits for a suspect alone, if it is not the one
// that tries the suspect.
func (t *attempts) patience() time.Duration {
	if hedge := t.relay.opts.Hedge; hedge > 0 {
		return min(hedge, suspectPatience)
	}
	return suspectPatience
}

// trialLimit returns the longest trial of a suspect with two attempts.
func trialLimit(attempt time.Duration) time.Duration { return 2*attempt + time.Second }

// endTrials ends the trials of this client, but not one that a judge continues. A
// suspect is tried by the next client if there was no result.
func (t *attempts) endTrials() {
	for _, a := range t.trials {
		if !t.relay.service.judges.judging(a.Backend) {
			t.walk.EndTrial(a)
		}
	}
}

// tries reports whether this client tries a suspect.
func (t *attempts) tries(b *upstream.Backend) bool {
	return slices.ContainsFunc(t.trials, func(a upstream.Attempt) bool { return a.Backend == b })
}

// companionAfter returns how long after the beginning of the current attempt a
// companion is due. ok is false if none is.
func (t *attempts) companionAfter() (after time.Duration, ok bool) {
	hedge := t.relay.opts.Hedge
	switch {
	case t.current.Backend == nil:
		return 0, false
	case !t.current.Suspect():
		return hedge, hedge > 0
	case hedge > 0 && t.tries(t.current.Backend):
		return 0, true // this client tries the suspect
	default:
		return t.patience(), true
	}
}

// replaceCompanion starts another companion at once after one has failed, while the
// client waits for a suspect.
func (t *attempts) replaceCompanion() {
	if t.companion.Backend == nil && t.current.Backend != nil && t.current.Suspect() {
		t.startCompanion()
	}
}

// trySuspectLocked makes this session the one that tries a suspect, unless there is
// one.
func (s *session) trySuspectLocked(a upstream.Attempt) {
	limit := s.relay.opts.UDPReplyTimeout
	if limit == 0 || a.Second() || !a.Suspect() {
		return
	}
	if s.walk.BeginTrial(a, a.Began.Add(min(limit, suspectPatience)), a.Began.Add(trialLimit(limit))) {
		s.relay.logSuspect(a, upstream.UDP, &s.key.Client)
	}
}

// endTrialLocked ends the trial of a session that ends without a result.
func (s *session) endTrialLocked() {
	if s.attempt.Backend != nil && s.attempt.Suspect() {
		s.walk.EndTrial(s.attempt)
	}
}

func (r *Relay) logSuspect(a upstream.Attempt, n upstream.Network, client fmt.Stringer) {
	r.log.Debug("trying a suspect", zap.Stringer("network", n), zap.Stringer("client", client), zap.String("backend", a.Backend.Text))
}
