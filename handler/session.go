package handler

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file is a session's life and its two directions; search.go is how it
// comes by a backend.

const (
	evictedForRoom   reason = "evicted"
	responsesReached reason = "responses"
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
// datagrams, errors and the time by whoever meets them, each under mu. Its two
// directions are mostly carried by two processors: what each datagram needs lies
// together, so that few cache lines pass between them.
type session struct {
	used atomic.Int64 // when a datagram last went either way, after sessions.epoch

	mu            sync.Mutex // guards what follows; taken by lock, given back by unlock
	phase         phase
	asked         int32             // datagrams since the round began
	answers       int32             // answers since the round began
	client        Replier           // back to the client: the latest way
	way           *way              // the same
	tally         *tally            // of tallyOf; nil: none yet
	tallyOf       *upstream.Backend // the attempt's, when it was last needed
	upN, upB      int64
	bookedN       int64 // of upN, what is in a tally
	bookedB       int64 // the same of upB
	downN, downB  int64
	search        // for a backend, and what is known of the one found
	backlog       backlog
	began         time.Time
	more          *more    // what few sessions need; nil: none of it
	afterUnlocked []func() // what must not run under mu: it takes other sessions' locks, or a stranger's

	key    Key    // set once, as are relay and ticket
	relay  *Relay // the settings it was made with
	ticket ticket
	holds  atomic.Bool // has a socket; changes under mu

	entry // guarded by sessions.mu, which may be taken while mu is held, never the other way round
}

// search is where the session's search for a backend stands.
type search struct {
	flow      *flow             // the socket, in phase open
	waiting   bool              // the attempt is under way: something sent has no answer yet
	attempt   upstream.Attempt  // the latest
	served    *upstream.Backend // who answered last; nil: nobody has yet
	addrs     []netip.Addr      // of the attempt's backend
	at        int               // which of them flow is connected to
	since     time.Time         // when the attempt began to try them
	walk      upstream.Walk
	failed    *dial.Error        // what those before it said; nil: nothing
	evictions int                // how many sessions this attempt has had evicted
	stop      context.CancelFunc // of the latest lookup; nil: done with
	owed      time.Time          // since when an answer is
	overdue   *time.Timer        // runs checkOverdue; nil until first needed
	until     time.Time          // end of phase refused
	why       error              // what the refusal will say
}

// flow is a session's socket, and the sink of what comes in on it. One that
// the session has left is deaf.
type flow struct {
	session    *session
	socket     dgram.Socket // guarded by session.mu, as is introduced
	introduced bool         // the backend was told who the client is
}

// way is a Replier with a count of its users: the session, and each reply
// under way. The last one out releases it, so that no reply comes after.
type way struct {
	Replier
	users atomic.Int32
}

func newWay(client Replier) *way {
	w := &way{Replier: client}
	w.users.Store(1)
	return w
}

func (w *way) drop() {
	if w.users.Add(-1) == 0 {
		w.Release()
	}
}

func newSession(key Key, r *Relay, ticket ticket) *session {
	return &session{key: key, relay: r, ticket: ticket, began: time.Now(), phase: refused}
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
		s.relay.panicked(upstream.UDP, s.key.Client.String(), p)
		s.end(panicked)
	}
}

// note counts what clients can cause as often as they like.
func (s *session) note(kind flood, more ...zap.Field) {
	s.relay.service.floods.note(s.relay.log, kind, append(more, zap.Stringer("network", upstream.UDP), zap.Stringer("client", &s.key.Client))...)
}

// touch books that something has passed just now.
func (s *session) touch() (now time.Time) {
	now = time.Now()
	s.used.Store(int64(now.Sub(s.relay.service.sessions.epoch)))
	return now
}

func (s *session) idleFor() time.Duration {
	return time.Since(s.relay.service.sessions.epoch) - time.Duration(s.used.Load())
}

// deliver takes datagrams from the client; false if the session has ended.
func (s *session) deliver(datagrams [][]byte, client Replier) (taken bool) {
	defer s.guard()
	s.lock()
	defer s.unlock()
	if s.phase == over {
		return false
	}
	taken = true // also if what follows panics: the next session would do no better with them
	if s.client != client {
		if old := s.way; old != nil {
			s.later(old.drop)
		}
		s.client, s.way = client, newWay(client)
	}
	now := s.touch()
	s.upN += int64(len(datagrams))
	s.upB += bytesOf(datagrams)
	for len(datagrams) > 0 {
		n := 1
		switch {
		case s.phase == open:
			n = s.forwardLocked(datagrams, now)
		case s.phase == refused && now.Before(s.until):
			s.dropLocked(dropped, datagrams[0])
		case !s.backlog.add(datagrams[0]):
			s.dropLocked(queueFull, datagrams[0])
		default:
			s.asked++
			if s.phase == refused {
				s.searchLocked()
			}
		}
		datagrams = datagrams[n:]
	}
	s.bookUpLocked()
	return taken
}

// Datagrams implements [dgram.Sink].
func (f *flow) Datagrams(datagrams [][]byte) {
	s := f.session
	defer s.guard()
	way, wanted := s.answered(f, datagrams)
	if way == nil {
		return
	}
	defer way.drop()
	_ = way.Reply(datagrams[:wanted]) // a client that cannot be sent to is found out by the idle timeout
}

// answered books datagrams from the backend, and ends the session with the
// last one wanted, of which it gives the number. The way is nil if they are not
// for the client; else the caller replies and drops it.
func (s *session) answered(f *flow, datagrams [][]byte) (way *way, wanted int) {
	s.lock()
	defer s.unlock()
	if s.flow != f {
		return nil, 0
	}
	now := s.touch()
	if s.waiting {
		s.servedLocked(now)
	}
	wanted, last := len(datagrams), false
	if limit := s.relay.opts.UDPResponses; limit > 0 && int(s.answers)+wanted >= limit*int(s.asked) {
		wanted, last = max(limit*int(s.asked)-int(s.answers), 1), true
	}
	s.answers += int32(wanted)
	s.downN += int64(wanted)
	bytes := bytesOf(datagrams[:wanted])
	s.downB += bytes
	t := s.tallyLocked()
	t.datagramsDown.Add(uint64(wanted))
	t.bytesDown.Add(uint64(bytes))
	way = s.way
	way.users.Add(1)
	if last {
		s.endLocked(responsesReached)
	}
	return way, wanted
}

// Failed implements [dgram.Sink].
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
	defer s.guard()
	s.lock()
	defer s.unlock()
	s.endLocked(why)
}

// endIfIdle ends the session if nothing has passed for its idle timeout; no
// datagram can slip in between the look and the end.
func (s *session) endIfIdle() bool {
	defer s.guard()
	s.lock()
	defer s.unlock()
	if s.idleFor() < s.relay.opts.IdleTimeout {
		return false
	}
	s.endLocked(idleTimeout)
	return true
}

// endIfQuiet ends the session if it owes nobody an answer and nothing has
// passed for that long.
func (s *session) endIfQuiet(quiet time.Duration) {
	defer s.guard()
	s.lock()
	defer s.unlock()
	if s.idleFor() >= quiet && !s.waiting {
		s.endLocked(shutdown)
	}
}

func (s *session) endLocked(why reason) {
	if s.phase == over {
		return
	}
	evictedNow := why == evictedForRoom
	if s.phase == refused && s.served == nil && s.why != nil {
		why = refusedClient // whatever it is that makes an end of it
	}
	s.phase, s.waiting = over, false
	s.relay.service.admission.leave(s.ticket, s.key.Client.Addr())
	// Out of the table first: Deliver tries again for as long as it finds an
	// ended session there, whatever goes wrong below.
	s.relay.service.sessions.remove(s)
	if s.way != nil {
		s.later(s.way.drop)
	}
	s.leaveFlowLocked()
	s.backlog.clear()
	if evictedNow {
		s.note(evicted)
	}
	s.logEndLocked(why)
}
