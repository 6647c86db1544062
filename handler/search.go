package handler

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file is how a UDP session comes by a backend that answers: the attempts
// of a round, and what is sent again on each. All of it runs under session.mu;
// a name alone is waited for elsewhere.

// refusedFor is how long the datagrams of a client that no backend answered
// are dropped before the next one begins a new round.
const refusedFor = time.Second

// maxEvictions is how many sessions may go for one attempt: a system that still
// has no room then lacks something else.
const maxEvictions = 3

var (
	errReplyTimeout = errors.New("no answer in time")
	errGivenUp      = errors.New("demoted by other clients' failures")
)

// searchLocked begins a round: every backend has its chance again.
func (s *session) searchLocked() {
	s.phase, s.walk, s.why = searching, s.relay.service.Pool.Walk(upstream.UDP), errNoBackend
	s.nextLocked()
}

// resumeLocked begins an attempt on the backend that has answered so far, for
// a datagram that is about to be sent to it.
func (s *session) resumeLocked(now time.Time) {
	s.since, s.failed, s.evictions = now, nil, 0
	s.attempt = s.walk.Resume(s.attempt.Backend, s.since)
	s.awaitLocked()
}

// nextLocked goes on to the next backend, or refuses the client.
func (s *session) nextLocked() {
	if attempt, ok := s.walk.Next(time.Now()); ok {
		s.tryLocked(attempt, query{})
		return
	}
	s.refuseLocked(s.why)
}

func (s *session) refuseLocked(why error) {
	s.leaveFlowLocked()
	s.phase, s.until = refused, time.Now().Add(refusedFor)
	s.waiting, s.asked, s.answers = false, 0, 0
	s.backlog.clear()
	s.note(refusedUDP, zap.Error(why))
}

// tryLocked begins an attempt; addresses that are at hand are used at once.
func (s *session) tryLocked(a upstream.Attempt, q query) {
	s.leaveFlowLocked()
	s.phase, s.attempt, s.waiting, s.evictions = searching, a, true, 0
	if q.how == cached || a.Backend.IP.IsValid() {
		if addrs, ok := s.relay.known(a.Backend); ok {
			s.resolvedLocked(q.choose(addrs, a.Backend, upstream.UDP))
			return
		}
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), s.relay.opts.ConnectTimeout, errConnectTimeout)
	s.stop = cancel
	go s.lookup(ctx, cancel, a, q)
}

// lookup waits for a name on a goroutine of its own, which ends with the
// answer, the connect timeout or the session.
func (s *session) lookup(ctx context.Context, cancel context.CancelFunc, a upstream.Attempt, q query) {
	defer s.guard()
	defer cancel()
	addrs, err := s.relay.resolve(ctx, a.Backend, upstream.UDP, q)
	s.lock()
	defer s.unlock()
	if s.phase == searching && s.attempt == a {
		s.resolvedLocked(addrs, err)
	}
}

func (s *session) resolvedLocked(addrs []netip.Addr, err error) {
	s.addrs, s.at, s.failed, s.since = addrs, 0, nil, time.Now()
	if err != nil {
		s.attemptFailedLocked(err)
		return
	}
	s.openLocked()
}

// openLocked connects to the attempt's addresses from the current one on,
// until one can be sent to.
func (s *session) openLocked() {
	for ; s.at < len(s.addrs); s.at++ {
		f := &flow{session: s}
		socket, err := s.relay.opts.UDP.Open(netip.AddrPortFrom(s.addrs[s.at], s.attempt.Backend.Port), f)
		if err == nil {
			f.socket = socket
			s.flow, s.phase = f, open
			s.holds.Store(true)
			s.tallyLocked().enter()
			s.awaitLocked()
			s.sendBacklogLocked()
			return
		}
		if netio.Classify(err) == netio.Exhausted {
			s.makeRoomLocked(err)
			return
		}
		s.blameLocked(err)
	}
	s.at = max(len(s.addrs)-1, 0)
	s.attemptFailedLocked(s.failed)
}

// blameLocked keeps what an address of the attempt said.
func (s *session) blameLocked(err error) {
	if s.failed == nil {
		s.failed = new(dial.Error)
	}
	s.failed.Add(err)
}

// makeRoomLocked has the longest-idle session ended for this one, which found
// no port or descriptor left. It is no backend's fault, and none would help.
func (s *session) makeRoomLocked(why error) {
	s.note(exhausted, zap.Error(why))
	if s.evictions >= maxEvictions {
		s.refuseLocked(why)
		return
	}
	s.evictions++
	a := s.attempt
	s.later(func() { s.makeRoom(a, why) })
}

func (s *session) makeRoom(a upstream.Attempt, why error) {
	victim := s.relay.service.sessions.evict()
	if victim != nil {
		victim.end(evictedForRoom)
	}
	s.lock()
	defer s.unlock()
	switch {
	case s.phase != searching || s.attempt != a: // it has moved on meanwhile
	case victim == nil:
		s.refuseLocked(why)
	default:
		s.openLocked()
	}
}

// flowFailedLocked goes on after the socket failed: with the attempt's next
// address, or else with what the two-strike rule says.
func (s *session) flowFailedLocked(err error) {
	if !s.waiting {
		return // a late word on something that was answered all the same
	}
	s.blameLocked(err)
	s.leaveFlowLocked()
	s.phase = searching
	s.at++
	s.openLocked()
}

func (s *session) attemptFailedLocked(err error) {
	a := s.attempt
	s.why = fmt.Errorf("backend %s: %w", a.Backend.Text, err)
	o := outcome{attempt: a, tried: s.addrs, since: s.since, took: time.Since(a.Began), err: err}
	if s.at < len(s.addrs) {
		o.addr = s.addrs[s.at]
	}
	s.recordLocked(o)
	verdict, change := s.relay.recordFailure(&s.walk, o, upstream.UDP, &s.key.Client)
	if change.Demoted {
		// Not here: this may be a listener's goroutine, and there may be many.
		go s.relay.service.sessions.leave(a.Backend)
	}
	if verdict != upstream.Next {
		if again, ok := s.walk.Again(a, time.Now()); ok {
			s.tryLocked(again, o.again(verdict))
			return
		}
		s.walk.Exhaust(a.Backend)
	}
	s.nextLocked()
}

// leave moves the session on if it waits for a backend that others' failures
// have demoted meanwhile.
func (s *session) leave(b *upstream.Backend) {
	defer s.guard()
	s.lock()
	defer s.unlock()
	if !s.waiting || s.attempt.Backend != b {
		return
	}
	select {
	case <-s.attempt.Demoted():
		s.why = fmt.Errorf("backend %s: %w", b.Text, errGivenUp)
		s.walk.Exhaust(b)
		s.nextLocked()
	default: // it began after the demotion
	}
}

// leaveFlowLocked gives up the socket or the lookup under way.
func (s *session) leaveFlowLocked() {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
	if s.overdue != nil {
		s.overdue.Stop()
	}
	if f := s.flow; f != nil {
		s.flow = nil
		s.holds.Store(false)
		s.tallyLocked().leave()
		f.socket.Close()
	}
}

// awaitLocked says that an answer is owed from now on.
func (s *session) awaitLocked() {
	s.waiting = true
	if timeout := s.replyTimeoutLocked(); timeout > 0 {
		s.owed = time.Now()
		if s.overdue == nil {
			s.overdue = time.AfterFunc(timeout, s.checkOverdue)
			return
		}
		s.overdue.Reset(timeout)
	}
}

// settledLocked says that no answer is owed any more.
func (s *session) settledLocked() {
	s.waiting = false
	if s.overdue != nil {
		s.overdue.Stop()
	}
}

// servedLocked books that the backend has answered what it was sent.
func (s *session) servedLocked(now time.Time) {
	s.settledLocked()
	s.backlog.clear()
	backend, addr := s.attempt.Backend, s.addrs[s.at]
	o := outcome{attempt: s.attempt, addr: addr, took: now.Sub(s.attempt.Began)}
	if s.served != backend {
		s.recordLocked(o)
		s.tallyLocked().connects.observe(o.took, now)
	}
	s.relay.recordSuccess(&s.walk, o, upstream.UDP, &s.key.Client, now, s.served == backend)
	s.addrs, s.at = preferredFirst(s.addrs, addr), 0
	if s.served == nil {
		s.relay.service.sessions.heard(s)
	}
	s.served = backend
}

// replyTimeoutLocked is how long the current address has to answer: its share
// of the attempt's time. 0 is for ever.
func (s *session) replyTimeoutLocked() time.Duration {
	return s.relay.opts.UDPReplyTimeout / time.Duration(max(len(s.addrs), 1))
}

func (s *session) checkOverdue() {
	defer s.guard()
	s.lock()
	defer s.unlock()
	if s.phase != open || !s.waiting {
		return
	}
	// The timer may have fired for the attempt before this one.
	if left := s.replyTimeoutLocked() - time.Since(s.owed); left > 0 {
		s.overdue.Reset(left)
		return
	}
	s.flowFailedLocked(errReplyTimeout)
}
