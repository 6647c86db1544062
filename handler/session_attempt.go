package handler

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file contains a session's attempts on backends: one round after another,
// each of which may try every backend. All of it runs under session.mu.

// refusedFor is how long the datagrams of a refused client are dropped. The next
// datagram after that starts a new round.
const refusedFor = time.Second

// maxEvictions bounds the sessions that are evicted for one attempt. If there is
// still no free port or descriptor, evicting more will not help.
const maxEvictions = 3

var (
	errReplyTimeout = errors.New("no answer in time")
	errGivenUp      = errors.New("demoted by other clients' failures")
)

// startRoundLocked starts a round: every backend may be tried again.
func (s *session) startRoundLocked() {
	if s.phase != open && s.holdForOperatorLocked() {
		return
	}
	s.phase, s.walk, s.lastErr = searching, s.relay.walk(upstream.UDP), errNoBackend
	s.nextBackendLocked()
}

// resumeLocked starts an attempt on the backend that has answered so far, for a
// datagram that is about to be sent to it.
func (s *session) resumeLocked(now time.Time) {
	s.since, s.failed, s.evictions = now, nil, 0
	s.attempt = s.walk.Resume(s.attempt.Backend, s.since)
	s.startWaitingLocked()
}

// nextBackendLocked starts an attempt on the next backend, or refuses the client
// if all were tried.
func (s *session) nextBackendLocked() {
	if attempt, ok := s.walk.Next(time.Now()); ok {
		s.startAttemptLocked(attempt, query{})
		return
	}
	if !s.holdLocked() {
		s.refuseLocked(s.lastErr)
	}
}

func (s *session) refuseLocked(why error) {
	s.stopAttemptLocked()
	s.forgetHoldLocked()
	s.phase, s.refusedUntil = refused, s.sinceEpoch(time.Now())+refusedFor
	s.waiting, s.requests, s.answers = false, 0, 0
	s.clearBacklogLocked()
	s.drillRefusedLocked()
	s.note(refusedUDP, zap.Error(why))
}

// startAttemptLocked starts an attempt. Cached addresses are used at once.
func (s *session) startAttemptLocked(a upstream.Attempt, q query) {
	s.stopAttemptLocked()
	s.trySuspectLocked(a)
	s.phase, s.attempt, s.waiting, s.evictions = searching, a, true, 0
	if q.how == cached || a.Backend.IP.IsValid() {
		if addrs, ok := s.relay.known(a.Backend); ok {
			addrs, err := q.choose(addrs, a.Backend, upstream.UDP)
			s.resolvedLocked(addrs, a.Began, err)
			return
		}
	}
	s.lookup = s.relay.startLookup(s, a.Backend, q)
}

// resolvedLocked continues an attempt with the addresses that it has to try, which were known
// at a time.
func (s *session) resolvedLocked(addrs []netip.Addr, since time.Time, err error) {
	s.addrs, s.at, s.failed, s.since = addrs, 0, nil, since
	if err != nil {
		s.attemptFailedLocked(err)
		return
	}
	s.openLocked()
}

// portLocked returns the port of the attempt's backend for this session.
func (s *session) portLocked() uint16 { return s.attempt.Backend.PortFor(s.key.Local.Port()) }

// openLocked is openNowLocked, unless a drill of the backend prevents it.
func (s *session) openLocked() {
	if d := s.relay.service.drills.of(s.attempt.Backend); d == nil || s.drillLocked(d) {
		s.openNowLocked()
	}
}

// openNowLocked opens a socket to the first of the attempt's addresses, from the
// current one on, for which that succeeds, and sends the backlog. The attempt
// fails if there is none.
func (s *session) openNowLocked() {
	for ; s.at < len(s.addrs); s.at++ {
		addr := netip.AddrPortFrom(s.addrs[s.at], s.portLocked())
		if !s.admitUnansweredLocked(addr) {
			s.refuseLocked(errSameHost)
			return
		}
		hop, err := s.admitAddrLocked(addr)
		if err != nil {
			s.addFailureLocked(err)
			continue
		}
		b := &backendSocket{session: s, drill: s.relay.service.drills.silent(s.attempt.Backend)}
		conn, err := s.relay.opts.UDP.Open(addr, b)
		if err == nil {
			if hop != nil {
				hop.add(conn.LocalAddr())
			}
			b.conn = conn
			if s.at > 0 {
				b.opened = s.sinceEpoch(time.Now())
			}
			s.socket, s.phase = b, open
			s.relay.service.sessions.setSocket(s, true)
			s.tallyLocked().active.Add(1)
			s.startWaitingLocked()
			s.sendBacklogLocked()
			return
		}
		if netio.Classify(err) == netio.Exhausted {
			s.makeRoomLocked(err)
			return
		}
		s.addFailureLocked(err)
	}
	s.at = max(len(s.addrs)-1, 0)
	s.attemptFailedLocked(s.failed)
}

// addFailureLocked adds the error of one address to the attempt's error.
func (s *session) addFailureLocked(err error) {
	if s.failed == nil {
		s.failed = new(dial.Error)
	}
	s.failed.Add(err)
}

// makeRoomLocked evicts the longest-idle session, because this one found no free
// port or descriptor. That is not the backend's fault, and another backend would
// not help.
func (s *session) makeRoomLocked(why error) {
	s.note(exhausted, zap.Error(why))
	if s.evictions >= maxEvictions {
		s.refuseExhaustedLocked(why)
		return
	}
	s.evictions++
	a := s.attempt
	s.afterUnlock(func() { s.makeRoom(a, why) })
}

func (s *session) makeRoom(a upstream.Attempt, why error) {
	table := s.relay.service.sessions
	evicted := table.budget.evict(table, true)
	s.lock()
	defer s.unlock()
	switch {
	case s.phase != searching || s.attempt != a: // the attempt has ended meanwhile
	case !evicted:
		s.refuseExhaustedLocked(why)
	default:
		s.openLocked()
	}
}

// refuseExhaustedLocked refuses a session for whose attempt this machine lacked
// something.
func (s *session) refuseExhaustedLocked(why error) {
	o := outcome{attempt: s.attempt, addr: s.addrs[s.at], port: s.portLocked(), err: why}
	s.relay.service.attemptFailedLocally(&s.walk, o, upstream.UDP, &s.key.Client)
	s.refuseLocked(why)
}

// socketFailedLocked tries the attempt's next address after the socket failed.
// If there is none, the attempt fails.
func (s *session) socketFailedLocked(err error) {
	if !s.waiting {
		return // a late error of a datagram that was answered all the same
	}
	s.addFailureLocked(err)
	s.stopAttemptLocked()
	s.phase = searching
	s.at++
	s.openLocked()
}

// attemptFailedLocked records a failed attempt, and starts the next one as the
// two-strike rule says.
func (s *session) attemptFailedLocked(err error) {
	a := s.attempt
	if !notMade(err) { // the error before tells why the backend has failed
		s.lastErr = fmt.Errorf("backend %s: %w", a.Backend.Text, err)
	}
	o := outcome{attempt: a, port: s.portLocked(), tried: s.addrs, since: s.since, took: time.Since(a.Began), err: err}
	if s.at < len(s.addrs) {
		o.addr = s.addrs[s.at]
	}
	s.recordAttemptLocked(o)
	verdict, change := s.relay.recordFailure(&s.walk, o, upstream.UDP, &s.key.Client)
	if change.Demoted {
		// On a goroutine of its own: this may be a listener's goroutine, and there may be many sessions.
		go s.relay.service.sessions.leaveDemoted(a.Backend)
	}
	if verdict == upstream.Next || a.Second() {
		s.walk.Exhaust(a.Backend)
		s.nextBackendLocked()
		return
	}
	service := s.relay.service
	delay := service.rebinds.delay(err, time.Since(service.sessions.epoch))
	if delay == 0 || verdict == upstream.RetryIfChanged {
		s.retryLocked(o, verdict)
		return
	}
	// Until then, the session queues datagrams and leaves the backend if that is
	// demoted, as while it waits for a lookup.
	s.stopAttemptLocked()
	s.phase, s.waiting = searching, true
	time.AfterFunc(delay, func() { // does nothing if the attempt has ended
		defer s.guard()
		s.lock()
		defer s.unlock()
		if s.phase == searching && s.attempt == a {
			s.retryLocked(o, verdict)
		}
	})
}

// retryLocked starts the second attempt on the backend of a failed one.
func (s *session) retryLocked(o outcome, verdict upstream.Verdict) {
	again, _ := s.walk.Again(o.attempt, time.Now())
	s.startAttemptLocked(again, o.again(verdict))
}

// leaveDemoted starts an attempt on the next backend if the session waits for an
// answer of a backend that was demoted since its attempt began.
func (s *session) leaveDemoted(b *upstream.Backend) {
	defer s.guard()
	s.lock()
	defer s.unlock()
	if !s.waiting || s.attempt.Backend != b {
		return
	}
	select {
	case <-s.attempt.Demoted():
		s.lastErr = fmt.Errorf("backend %s: %w", b.Text, errGivenUp)
		s.walk.Exhaust(b)
		s.nextBackendLocked()
	default: // the attempt began after the demotion
	}
}

// stopAttemptLocked closes the socket, cancels the lookup and stops the timer.
func (s *session) stopAttemptLocked() {
	if s.lookup != nil {
		s.relay.cancelLookup(s.lookup)
		s.lookup = nil
	}
	if s.replyTimer != nil {
		s.replyTimer.Stop()
	}
	s.forgetUnreachableLocked()
	s.stopTakenLocked()
	s.leaveHoldLocked()
	s.addrLost = false
	if b := s.socket; b != nil {
		s.socket = nil
		s.relay.service.sessions.setSocket(s, false)
		s.tallyLocked().leave()
		s.leaveHopsLocked()
		b.conn.Close()
	}
}

// startWaitingLocked starts waiting for an answer.
func (s *session) startWaitingLocked() {
	s.waiting = true
	s.startTakenLocked()
	if timeout := s.replyTimeoutLocked(); timeout > 0 {
		s.waitingSince = time.Now()
		if s.replyTimer == nil {
			s.replyTimer = time.AfterFunc(timeout, s.checkReplyTimeout)
			return
		}
		s.replyTimer.Reset(timeout)
	}
}

// stopWaitingLocked stops waiting for an answer.
func (s *session) stopWaitingLocked() {
	s.waiting = false
	s.forgetUnreachableLocked()
	s.stopTakenLocked()
	if s.replyTimer != nil {
		s.replyTimer.Stop()
	}
}

// backendAnsweredLocked ends the attempt with a success.
func (s *session) backendAnsweredLocked(now time.Time) {
	s.stopWaitingLocked()
	s.uncountLocked()
	s.clearBacklogLocked()
	s.drillServedLocked(now)
	s.forgetHoldLocked()
	backend, addr := s.attempt.Backend, s.addrs[s.at]
	o := outcome{attempt: s.attempt, addr: addr, port: s.portLocked(), took: now.Sub(s.attempt.Began)}
	if s.answeredBy != backend {
		s.recordAttemptLocked(o)
		s.tallyLocked().connections.Add(1)
		s.tallyLocked().connects.observe(o.took, now)
	}
	s.relay.recordSuccess(&s.walk, o, upstream.UDP, &s.key.Client, now, s.answeredBy == backend)
	s.addrs, s.at = preferredFirst(s.addrs, addr), 0
	if s.answeredBy == nil {
		s.relay.service.sessions.setAnswered(s)
	}
	s.answeredBy = backend
}

// replyTimeoutLocked returns how long the current address has to answer: all
// addresses of an attempt share its time. 0 means no limit.
func (s *session) replyTimeoutLocked() time.Duration {
	return s.relay.opts.UDPReplyTimeout / time.Duration(max(len(s.addrs), 1))
}

// checkReplyTimeout is called by replyTimer.
func (s *session) checkReplyTimeout() {
	defer s.guard()
	s.lock()
	defer s.unlock()
	if s.phase != open || !s.waiting {
		return
	}
	left := s.replyTimeoutLocked() - time.Since(s.waitingSince)
	switch {
	case left > 0: // the timer had fired for an earlier attempt, before it was reset
		s.replyTimer.Reset(left)
	case left <= -lateTimer:
		s.waitingSince = s.waitingSince.Add(catchUp - left) // the timeout expires after catchUp
		s.replyTimer.Reset(catchUp)
	default:
		s.socketFailedLocked(errReplyTimeout)
	}
}
