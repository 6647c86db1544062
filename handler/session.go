package handler

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/upstream"
)

const (
	evictedForRoom   reason = "evicted"
	responsesReached reason = "responses"
	serviceClosed    reason = "closed"
)

// refusedFor is how long the datagrams of a client that no backend answered
// are dropped before the next one begins a new round.
const refusedFor = time.Second

// maxEvictions is how many sessions may go for one attempt: a system that still
// has no room then lacks something else.
const maxEvictions = 3

var (
	errReplyTimeout = errors.New("no answer in time")
	errUnchanged    = errors.New("no other addresses")
)

// phase is where a session stands.
//
//	searching --socket--> open --failed, all tried--> refused
//	    ^ ^________failed, retry or next_____|           |
//	    |______________datagram after a second___________|
//
// and from each of them to over.
type phase uint8

const (
	searching phase = iota // looks up a name; datagrams queue
	open                   // has a socket
	refused                // no backend answered; datagrams are dropped for a while
	over                   // has ended
)

// session is one UDP client's relay: a passive thing that is told of
// datagrams, errors and the time by whoever meets them, each under mu.
type session struct {
	key   Key    // set once
	relay *Relay // set once: the settings it was made with

	used atomic.Int64 // when a datagram last went either way, after sessions.epoch

	entry // guarded by sessions.mu

	mu        sync.Mutex // guards what follows; taken by lock, given back by unlock
	phase     phase
	replier   Replier
	walk      upstream.Walk
	attempt   upstream.Attempt // the latest
	waiting   bool             // the attempt is under way: something sent has no answer yet
	flow      *flow            // the socket, in phase open
	addrs     []netip.Addr     // of the attempt's backend
	at        int              // which of them flow is connected to
	since     time.Time        // when the attempt began to try them
	backlog   backlog          // datagrams not yet answered, or not yet sent
	stop      context.CancelFunc
	owed      time.Time   // since when an answer is
	overdue   *time.Timer // runs checkOverdue; nil until first needed
	until     time.Time   // end of phase refused
	evictions int         // how many sessions this attempt has had evicted
	heard     bool        // the backend has answered

	began         time.Time
	asked         int // datagrams since the round began
	answers       int // answers since the round began
	upN, downN    int64
	upB, downB    int64
	afterUnlocked []func() // what must not run under mu: it takes other sessions' locks, or a stranger's
}

// flow is a session's socket, and the sink of what comes in on it. One that
// the session has left is deaf.
type flow struct {
	session *session
	socket  Socket // guarded by session.mu
}

func newSession(key Key, r *Relay) *session {
	return &session{key: key, relay: r, began: time.Now(), phase: refused}
}

func (s *session) lock() { s.mu.Lock() }

// unlock also runs what had to wait for it.
func (s *session) unlock() {
	after := s.afterUnlocked
	s.afterUnlocked = nil
	s.mu.Unlock()
	for _, f := range after {
		f()
	}
}

func (s *session) later(f func()) { s.afterUnlocked = append(s.afterUnlocked, f) }

// guard is deferred first in all that others call: a panic ends this session
// and nothing else.
func (s *session) guard() {
	if p := recover(); p != nil {
		s.relay.panicked(upstream.UDP, s.client(), p)
		s.end(panicked)
	}
}

func (s *session) client() string { return s.key.Client.String() }

func (s *session) touch() { s.used.Store(int64(time.Since(s.relay.service.sessions.epoch))) }

// deliver takes a datagram from the client; false if the session has ended.
func (s *session) deliver(datagram []byte, client Replier) bool {
	defer s.guard()
	s.lock()
	defer s.unlock()
	if s.phase == over {
		return false
	}
	if s.replier != client {
		if old := s.replier; old != nil {
			s.later(old.Release)
		}
		s.replier = client
	}
	s.touch()
	s.upN++
	s.upB += int64(len(datagram))
	if s.phase == refused {
		if time.Now().Before(s.until) {
			s.note(dropped)
			return true
		}
		s.phase, s.walk = searching, s.relay.service.Pool.Walk(upstream.UDP)
		s.keep(datagram)
		s.nextLocked()
		return true
	}
	if !s.keep(datagram) {
		s.note(queueFull)
		return true
	}
	if s.phase == open {
		if !s.waiting {
			s.since = time.Now()
			s.attempt = s.walk.Resume(s.attempt.Backend, s.since)
			s.awaitLocked()
		}
		s.sendLocked(datagram)
		s.backlog.trim()
	}
	return true
}

func (s *session) keep(datagram []byte) bool {
	if !s.backlog.add(datagram) {
		return false
	}
	s.asked++
	return true
}

func (s *session) note(kind flood, more ...zap.Field) {
	s.relay.service.floods.note(s.relay.log, kind, append(more, zap.Stringer("network", upstream.UDP), zap.Stringer("client", s.key.Client))...)
}

// nextLocked goes on to the next backend, or refuses the client.
func (s *session) nextLocked() {
	if attempt, ok := s.walk.Next(time.Now()); ok {
		s.tryLocked(attempt, query{})
		return
	}
	s.refuseLocked(errNoBackend)
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
			s.resolvedLocked(q, preferredFirst(addrs, a.Backend.Preferred(upstream.UDP)), !sameSet(addrs, q.tried), nil)
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
	addrs, changed, err := s.relay.resolve(ctx, a.Backend, upstream.UDP, q)
	s.lock()
	defer s.unlock()
	if s.phase == searching && s.attempt == a {
		s.resolvedLocked(q, addrs, changed, err)
	}
}

func (s *session) resolvedLocked(q query, addrs []netip.Addr, changed bool, err error) {
	s.addrs, s.at, s.since = addrs, 0, time.Now()
	if err == nil && q.how == ifChanged && !changed {
		err = errUnchanged
	}
	if err != nil {
		s.attemptFailedLocked(err)
		return
	}
	s.openLocked(nil)
}

// openLocked connects to the attempt's addresses from the current one on,
// until one can be sent to. failed is what the one before it said.
func (s *session) openLocked(failed *dialError) {
	for ; s.at < len(s.addrs); s.at++ {
		f := &flow{session: s}
		socket, err := s.relay.opts.Engine.Open(netip.AddrPortFrom(s.addrs[s.at], s.attempt.Backend.Port), f)
		if err == nil {
			f.socket = socket
			s.flow, s.phase = f, open
			s.awaitLocked()
			s.sendBacklogLocked()
			return
		}
		if netio.Classify(err) == netio.Exhausted {
			a := s.attempt
			s.later(func() { s.makeRoom(a, err) })
			return
		}
		if failed == nil {
			failed = new(dialError)
		}
		failed.add(err)
	}
	s.at = max(len(s.addrs)-1, 0)
	s.attemptFailedLocked(failed)
}

// makeRoom ends the longest-idle session for this one, which found no port or
// descriptor left. It is nobody else's fault, and no other backend would help.
func (s *session) makeRoom(a upstream.Attempt, why error) {
	s.relay.service.floods.note(s.relay.log, lackOfOwn, zap.Stringer("network", upstream.UDP), zap.Error(why))
	victim := s.relay.service.sessions.evict(s)
	if victim != nil {
		victim.end(evictedForRoom)
	}
	s.lock()
	defer s.unlock()
	s.evictions++
	switch {
	case s.phase != searching || s.attempt != a:
	case victim == nil || s.evictions > maxEvictions:
		s.refuseLocked(why)
	default:
		s.openLocked(nil)
	}
}

func (s *session) sendBacklogLocked() {
	flow := s.flow
	for _, datagram := range s.backlog.datagrams {
		if s.sendLocked(datagram); s.flow != flow {
			return // this socket failed, the next has sent them all
		}
	}
	s.backlog.trim()
}

func (s *session) sendLocked(datagram []byte) {
	err := s.flow.socket.Send(datagram)
	switch {
	case err == nil:
	case netio.TooBig(err), netio.Classify(err) == netio.Exhausted:
		s.note(dropped, zap.Error(err)) // the fault of the datagram, or of a full buffer
	default:
		s.flowFailedLocked(err)
	}
}

// flowFailedLocked goes on after the socket failed: with the attempt's next
// address, or else with what the two-strike rule says.
func (s *session) flowFailedLocked(err error) {
	if !s.waiting {
		return // a late word on something that was answered all the same
	}
	failed := new(dialError)
	failed.add(err)
	s.leaveFlowLocked()
	s.phase = searching
	s.at++
	s.openLocked(failed)
}

func (s *session) attemptFailedLocked(err error) {
	a := s.attempt
	o := outcome{attempt: a, tried: s.addrs, since: s.since, took: time.Since(a.Began), err: err, unchanged: errors.Is(err, errUnchanged)}
	if s.at < len(s.addrs) {
		o.addr = s.addrs[s.at]
	}
	verdict, change := s.relay.failed(&s.walk, o, upstream.UDP, s.client())
	if change.Demoted {
		s.later(func() { s.relay.service.sessions.leave(a.Backend) })
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
	if s.flow != nil {
		s.flow.socket.Close()
		s.flow = nil
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

// Datagram implements [Sink].
func (f *flow) Datagram(datagram []byte) {
	s := f.session
	defer s.guard()
	replier, last := s.answered(f, len(datagram))
	if replier == nil {
		return
	}
	_ = replier.Reply(datagram) // a client that cannot be sent to is found out by the idle timeout
	if last {
		s.end(responsesReached)
	}
}

// answered books a datagram from the backend. The replier is nil if it is not
// for the client; last says that the session is over with it.
func (s *session) answered(f *flow, size int) (replier Replier, last bool) {
	s.lock()
	defer s.unlock()
	if s.flow != f {
		return nil, false
	}
	s.touch()
	if s.waiting {
		s.waiting = false
		if s.overdue != nil {
			s.overdue.Stop()
		}
		s.backlog.clear()
		addr := s.addrs[s.at]
		o := outcome{attempt: s.attempt, addr: addr, took: time.Since(s.attempt.Began)}
		s.relay.succeeded(&s.walk, o, upstream.UDP, s.client(), s.heard)
		s.addrs, s.at = preferredFirst(s.addrs, addr), 0
	}
	if !s.heard {
		s.heard = true
		s.relay.service.sessions.heard(s)
	}
	s.answers++
	s.downN++
	s.downB += int64(size)
	limit := s.relay.opts.UDPResponses
	return s.replier, limit > 0 && s.answers >= limit*s.asked
}

// Failed implements [Sink].
func (f *flow) Failed(err error) {
	s := f.session
	defer s.guard()
	s.lock()
	defer s.unlock()
	if s.flow == f {
		s.flowFailedLocked(err)
	}
}

// end ends the session, once.
func (s *session) end(why reason) {
	s.lock()
	defer s.unlock()
	s.endLocked(why)
}

// endIfIdle ends the session if nothing has passed for its idle timeout; no
// datagram can slip in between the look and the end.
func (s *session) endIfIdle() bool {
	s.lock()
	defer s.unlock()
	if s.idleFor() < s.relay.opts.IdleTimeout {
		return false
	}
	s.endLocked(idleTimeout)
	return true
}

func (s *session) idleFor() time.Duration {
	return time.Since(s.relay.service.sessions.epoch) - time.Duration(s.used.Load())
}

func (s *session) endLocked(why reason) {
	if s.phase == over {
		return
	}
	s.phase, s.waiting = over, false
	s.leaveFlowLocked()
	s.backlog.clear()
	s.relay.service.sessions.remove(s)
	if s.replier != nil {
		s.later(s.replier.Release)
	}
	if line := s.relay.log.Check(zap.DebugLevel, "relay ended"); line != nil {
		backend := ""
		if s.attempt.Backend != nil {
			backend = s.attempt.Backend.Text
		}
		line.Write(zap.Stringer("network", upstream.UDP),
			zap.Stringer("client", s.key.Client),
			zap.String("backend", backend),
			zap.Duration("duration", time.Since(s.began)),
			zap.Int64("bytes_up", s.upB), zap.Int64("bytes_down", s.downB),
			zap.Int64("datagrams_up", s.upN), zap.Int64("datagrams_down", s.downN),
			zap.String("reason", string(why)))
	}
}
