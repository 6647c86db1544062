package handler

import (
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// This file ends the strike or down of a UDP backend that takes datagrams and never
// answers, as syslog and NetFlow servers do.
//
// An attempt that has sent datagrams for takenFor, and got no error, counts as a
// success. That is not so with udp_reply_timeout: then silence is a failure. The
// timer runs only for attempts that can change the state of their backend, so that
// it costs nothing while all backends are up.

const (
	// takenFor is how long a backend must take datagrams without an error.
	takenFor = 30 * time.Second
	// takenAtLeast is how long after the start of the attempt the client must have
	// sent another datagram: the ICMP error about a single one may be lost, because
	// systems limit their rate.
	takenAtLeast = time.Second
)

// startTakenLocked starts the timer for the current attempt if its success would
// end a strike or down.
func (s *session) startTakenLocked() {
	if s.relay.opts.UDPReplyTimeout > 0 || !s.attempt.Ends() {
		return
	}
	e := s.extrasLocked()
	if e.taken == nil {
		e.taken = &taken{}
		e.taken.begin(s, time.Now())
	}
}

// taken is an attempt without an answer and without an error.
type taken struct {
	began time.Time
	due   time.Time
	timer *time.Timer // calls checkTaken
}

func (t *taken) begin(s *session, now time.Time) {
	t.began, t.due = now, now.Add(takenFor)
	t.timer = time.AfterFunc(takenFor, func() { s.checkTaken(t) })
}

// stopTakenLocked stops the timer.
func (s *session) stopTakenLocked() {
	if s.extras != nil && s.extras.taken != nil {
		s.extras.taken.timer.Stop()
		s.extras.taken = nil
	}
}

// checkTaken is called by the timer.
func (s *session) checkTaken(t *taken) {
	defer s.guard()
	s.lock()
	defer s.unlock()
	if s.extras.taken != t || s.socket == nil { // the attempt has ended
		return
	}
	now := time.Now()
	lastUsed := s.relay.service.sessions.epoch.Add(time.Duration(s.used.Load()))
	switch {
	case now.Sub(t.due) >= lateTimer, s.extras.unreachable != nil: // an error may be unread, or is about to count
		t.due = now.Add(catchUp)
		t.timer.Reset(catchUp)
	case s.socket.drilled(), s.socket.rejectedSince != 0, lastUsed.Sub(t.began) < takenAtLeast:
		t.began, t.due = now, now.Add(takenFor)
		t.timer.Reset(takenFor)
	default:
		s.extras.taken = nil
		s.backendTookLocked(now)
	}
}

// backendTookLocked records a success of the attempt, and begins the next one: the
// client may try every backend again after its next failure.
func (s *session) backendTookLocked(now time.Time) {
	o := outcome{attempt: s.attempt, addr: s.addrs[s.at], port: s.portLocked(), took: now.Sub(s.attempt.Began)}
	s.relay.recordSuccess(&s.walk, o, upstream.UDP, &s.key.Client, now, true)
	s.attempt = s.walk.Resume(s.attempt.Backend, now)
}
