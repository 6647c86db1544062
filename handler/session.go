package handler

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file contains the life of a session and its two directions.
// session_attempt.go contains its attempts on backends.

// Reasons why sessions end, in addition to those of TCP relays.
const (
	evictedForRoom   stream.Reason = "evicted"
	responsesReached stream.Reason = "responses"
)

// phase is the state of a session.
//
//	searching --socket--> open --failed, all tried--> refused
//	    ^ ^________failed, retry or next_____|           |
//	    |______________datagram after a second___________|
//
// With a hold, the session is held before it is refused: when all backends were
// tried, or, for an operator, instead of searching.
//
//	searching or open --failed, all tried--> held --the hold ends--> refused
//	    ^______________a backend may have recovered___|
//
// Each of them can change to over.
type phase uint8

const (
	searching phase = iota // looks up a name; datagrams are queued
	held                   // waits for a backend to recover; datagrams are queued
	open                   // has a socket
	refused                // no backend answered; datagrams are dropped for refusedFor
	over                   // has ended
)

// session is the relay of one UDP client. It has no goroutine: the goroutines
// that receive datagrams and errors, and timers, call its methods, which take mu.
//
// The two directions usually run on different CPUs. The fields that are used for
// each datagram are next to each other, so that few cache lines move between them.
type session struct {
	used atomic.Int64 // when a datagram was last sent or received, in nanoseconds after sessions.epoch

	mu              sync.Mutex // guards the fields below; use lock and unlock
	phase           phase
	unanswered      bool              // the session counts against unansweredLimit
	requests        int32             // datagrams from the client in this round
	answers         int32             // datagrams from backends in this round
	client          Replier           // the client's latest Replier
	replier         *sharedReplier    // the same, with its reference count
	tally           *tally            // the counters of tallyBackend; nil: none yet
	tallyBackend    *upstream.Backend // the attempt's backend when the counters were last used
	upN, upB        int64             // datagrams and bytes from the client
	countedN        int64             // the part of upN that a tally contains
	countedB        int64             // the part of upB that a tally contains
	downN, downB    int64             // datagrams and bytes from backends
	sessionAttempts                   // on backends
	backlog         backlog
	counted         int // the part of backlog.held that Backlogs counts; unlock updates it
	began           time.Time
	extras          *extras  // what few sessions need; nil: not needed so far
	runAfterUnlock  []func() // calls that must not run under mu, because they take locks of other sessions or leave this package

	key     Key    // set once, as are relay and ticket
	relay   *Relay // the relay, with its settings, that the session was started by
	ticket  ticket // of the admission
	inShard int32  // index in the shard of Backlogs, while counted is not 0; guarded by backlogShard.mu

	entry // guarded by sessions.mu; that lock may be taken while mu is held, and never the other way round
}

// sessionAttempts is the state of a session's attempts on backends.
type sessionAttempts struct {
	socket       *backendSocket    // nil unless the phase is open
	leaving      bool              // the next datagram of the client goes to another backend
	addrLost     bool              // the backend's name has lost the socket's address: the next datagram begins an attempt
	waiting      bool              // the attempt is in progress: a datagram was sent and there is no answer yet
	attempt      upstream.Attempt  // the latest one
	answeredBy   *upstream.Backend // the backend that answered last; nil: none has
	addrs        []netip.Addr      // of the attempt's backend
	at           int               // index in addrs of the socket's address
	since        time.Time         // when the attempt began to try addrs
	walk         upstream.Walk
	failed       *dial.Error   // errors of the addresses tried before; nil: none
	evictions    int           // how many sessions were evicted for this attempt
	lookup       *lookupWaiter // the wait for a lookup; nil: none
	waitingSince time.Time     // when waiting became true
	replyTimer   *time.Timer   // calls checkReplyTimeout; nil until first needed
	refusedUntil time.Duration // the end of phase refused, after sessions.epoch
	lastErr      error         // why the latest attempt failed; the error of the refusal
}

// backendSocket is a session's socket towards a backend, and the sink of that
// socket. It ignores what it receives once the session has another socket.
type backendSocket struct {
	session       *session
	conn          dgram.Socket  // guarded by session.mu, as are the fields below
	used          bool          // a datagram was sent
	drill         *drill        // until its end, nothing is sent; nil: none
	opened        time.Duration // when the socket was opened, after sessions.epoch, as rejectedSince; 0: when the attempt began
	rejectedSince time.Duration // when a send was first rejected after the last one that succeeded; 0: it was not
}

// sharedReplier is a Replier with a reference count. The session and each call
// of Reply hold a reference. Releasing the last one calls Release, so that no
// Reply follows Release.
type sharedReplier struct {
	Replier
	references atomic.Int32
}

// newSharedReplier returns a sharedReplier with one reference.
func newSharedReplier(client Replier) *sharedReplier {
	r := &sharedReplier{Replier: client}
	r.references.Store(1)
	return r
}

// dropReference calls Release if this was the last reference.
func (r *sharedReplier) dropReference() {
	if r.references.Add(-1) == 0 {
		r.Release()
	}
}

func newSession(key Key, r *Relay, ticket ticket) *session {
	s := &session{key: key, relay: r, ticket: ticket, began: time.Now(), phase: refused}
	s.used.Store(int64(s.sinceEpoch(s.began)))
	return s
}

func (s *session) lock() { s.mu.Lock() }

// unlock counts the memory of the backlog, unlocks mu and makes the calls of
// afterUnlock.
func (s *session) unlock() {
	if s.backlog.held != s.counted {
		if b := s.relay.opts.Backlogs; b.recount(s) {
			s.afterUnlock(b.shrink)
		}
	}
	calls := s.runAfterUnlock
	s.runAfterUnlock = nil
	s.mu.Unlock()
	for _, f := range calls {
		f()
	}
}

// afterUnlock makes unlock call f.
func (s *session) afterUnlock(f func()) { s.runAfterUnlock = append(s.runAfterUnlock, f) }

// guard ends the session after a panic. It is the first deferred call of every
// method that other code calls, so that a panic affects one session only.
func (s *session) guard() {
	if p := recover(); p != nil {
		s.panicked(p)
	}
}

// note counts and logs an event that clients can cause any number of times.
func (s *session) note(kind flood, more ...zap.Field) {
	s.relay.service.floods.noteAbout(s, s.relay.log, kind, more...)
}

// MarshalLogObject implements [zapcore.ObjectMarshaler]: it adds the fields that lines about
// a session have in common.
func (s *session) MarshalLogObject(line zapcore.ObjectEncoder) error {
	line.AddString("network", upstream.UDP.String())
	line.AddString("client", s.key.Client.String())
	return nil
}

// touch restarts the idle timeout.
func (s *session) touch() (now time.Time) {
	now = time.Now()
	s.used.Store(int64(s.sinceEpoch(now)))
	return now
}

// sinceEpoch returns a time in the form in which a session keeps most times, which takes a
// third of the memory.
func (s *session) sinceEpoch(now time.Time) time.Duration {
	return now.Sub(s.relay.service.sessions.epoch)
}

// idleFor returns how long no datagram was sent or received.
func (s *session) idleFor() time.Duration {
	return s.sinceEpoch(time.Now()) - time.Duration(s.used.Load())
}

// deliver handles datagrams from the client. It returns false, and does nothing,
// if the session has ended.
func (s *session) deliver(datagrams [][]byte, client Replier) (taken bool) {
	defer s.guard()
	s.lock()
	defer s.unlock()
	if s.phase == over {
		return false
	}
	taken = true // also after a panic: another session would panic too
	if s.client != client {
		if old := s.replier; old != nil {
			s.afterUnlock(old.dropReference)
		}
		s.client, s.replier = client, newSharedReplier(client)
	}
	now := s.touch()
	s.upN += int64(len(datagrams))
	s.upB += bytesOf(datagrams)
	if s.leaving {
		s.moveLocked(now)
	}
	if s.addrLost {
		s.followNameLocked(now)
	}
	for len(datagrams) > 0 {
		n := 1
		switch {
		case s.phase == open:
			n = s.forwardLocked(datagrams, now)
		case s.phase == refused && s.sinceEpoch(now) < s.refusedUntil:
			s.dropLocked(dropped, datagrams[0])
		case !s.backlog.add(datagrams[0], s.relay.opts.Backlogs.since(now)):
			s.dropLocked(queueFull, datagrams[0])
		default:
			s.requests++
			if s.phase == refused {
				s.startRoundLocked()
			}
		}
		datagrams = datagrams[n:]
	}
	s.countUpLocked()
	return taken
}

// Datagrams implements [dgram.Sink].
func (b *backendSocket) Datagrams(datagrams [][]byte) {
	s := b.session
	defer s.guard()
	replier, wanted := s.acceptAnswers(b, datagrams)
	if replier == nil {
		return
	}
	defer replier.dropReference()
	_ = replier.Reply(datagrams[:wanted]) // a session whose client is gone ends by its idle timeout
}

// acceptAnswers records datagrams from a backend, and ends the session if they
// complete the answers that UDPResponses allows. It returns a reference to the
// Replier and how many of the datagrams are to be sent to the client. The Replier
// is nil if b is not the session's socket any more.
func (s *session) acceptAnswers(b *backendSocket, datagrams [][]byte) (replier *sharedReplier, wanted int) {
	s.lock()
	defer s.unlock()
	if s.socket != b {
		return nil, 0
	}
	now := s.touch()
	if s.waiting {
		s.backendAnsweredLocked(now)
	}
	wanted, last := len(datagrams), false
	if limit := s.relay.opts.UDPResponses; limit > 0 && int(s.answers)+wanted >= limit*int(s.requests) {
		wanted, last = max(limit*int(s.requests)-int(s.answers), 1), true
	}
	s.answers += int32(wanted)
	s.downN += int64(wanted)
	bytes := bytesOf(datagrams[:wanted])
	s.downB += bytes
	t := s.tallyLocked()
	t.datagramsDown.Add(uint64(wanted))
	t.bytesDown.Add(uint64(bytes))
	replier = s.replier
	replier.references.Add(1)
	if last {
		s.endLocked(responsesReached)
	}
	return replier, wanted
}

// Failed implements [dgram.Sink].
func (b *backendSocket) Failed(err error) {
	s := b.session
	defer s.guard()
	s.lock()
	defer s.unlock()
	if s.socket == b {
		s.socketErrorLocked(b, err)
	}
}

// end ends the session. It does nothing if the session has ended.
func (s *session) end(why stream.Reason) {
	defer s.guard()
	s.lock()
	defer s.unlock()
	s.endLocked(why)
}

// endIfIdle ends the session if its idle timeout has expired, and reports
// whether it has. Because it holds mu, no datagram can arrive between the check
// and the end.
func (s *session) endIfIdle() bool {
	defer s.guard()
	s.lock()
	defer s.unlock()
	if s.idleFor() < s.relay.opts.IdleTimeout {
		return false
	}
	s.endLocked(stream.IdleTimeout)
	return true
}

// endIfQuiet ends the session if it does not wait for an answer and has been
// idle for at least that long.
func (s *session) endIfQuiet(quiet time.Duration) {
	defer s.guard()
	s.lock()
	defer s.unlock()
	if s.idleFor() >= quiet && !s.waiting {
		s.endLocked(stream.Shutdown)
	}
}

func (s *session) endLocked(why stream.Reason) {
	if s.phase == over {
		return
	}
	evictedNow := why == evictedForRoom
	if s.phase == refused && s.answeredBy == nil && s.lastErr != nil {
		why = stream.RefusedNoBackend // the client was refused before; that is the reason to log
	}
	s.phase, s.waiting = over, false
	s.backlog = backlog{} // also if a call below panics
	s.relay.service.admission.leave(s.ticket)
	// Remove the session from the table first, in case a call below panics:
	// Deliver retries while it finds an ended session in the table.
	s.relay.service.sessions.remove(s)
	if s.replier != nil {
		s.afterUnlock(s.replier.dropReference)
	}
	if s.answeredBy == nil && s.socket != nil {
		s.tallyLocked().connections.Add(1) // the backend served it without an answer
	}
	s.endTrialLocked()
	s.stopAttemptLocked()
	if evictedNow {
		s.note(evicted)
	}
	s.logEndLocked(why)
}
