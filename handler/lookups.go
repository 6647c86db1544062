package handler

import (
	"container/list"
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// lookups holds the lookups that the UDP sessions of a relay wait for. All sessions
// that wait for a name share one lookup, with one goroutine and one timer. Its lock
// may be taken while session.mu is held, and never the other way round.
type lookups struct {
	mu       sync.Mutex
	inFlight map[lookupKey]*sharedLookup // those that have waiters
}

// lookupKey identifies a lookup that sessions can share.
type lookupKey struct {
	host string
	how  lookup
}

// sharedLookup is a lookup with the sessions that wait for it. It ends when the
// last of them has left.
type sharedLookup struct {
	relay  *Relay
	key    lookupKey
	cancel context.CancelFunc

	// Guarded by lookups.mu.
	waiters list.List   // of *lookupWaiter, in the order of their deadlines
	timer   *time.Timer // calls expire at the first deadline
}

// lookupWaiter is a session that waits for a lookup.
type lookupWaiter struct {
	session  *session
	backend  *upstream.Backend
	query    query
	deadline time.Time
	lookup   *sharedLookup
	element  *list.Element // in lookup.waiters; nil after the end of the wait; guarded by lookups.mu
}

// startLookup makes the session wait for the addresses of a backend. It calls
// session.resolved, unless cancelLookup is called before. It gives up at the
// connect timeout.
func (r *Relay) startLookup(s *session, b *upstream.Backend, q query) *lookupWaiter {
	key := lookupKey{b.Host, q.sharedHow()}
	w := &lookupWaiter{session: s, backend: b, query: q}
	r.lookups.mu.Lock()
	defer r.lookups.mu.Unlock()
	w.deadline = time.Now().Add(r.opts.ConnectTimeout)
	w.lookup = r.lookups.inFlight[key]
	if w.lookup == nil {
		ctx, cancel := context.WithCancel(context.Background())
		w.lookup = &sharedLookup{relay: r, key: key, cancel: cancel}
		w.lookup.timer = time.AfterFunc(r.opts.ConnectTimeout, w.lookup.expire)
		if r.lookups.inFlight == nil {
			r.lookups.inFlight = make(map[lookupKey]*sharedLookup)
		}
		r.lookups.inFlight[key] = w.lookup
		go w.lookup.run(ctx) // ends with the answer, or when no session waits any more
	}
	w.element = w.lookup.waiters.PushBack(w)
	return w
}

// cancelLookup ends the wait of a session.
func (r *Relay) cancelLookup(w *lookupWaiter) {
	r.lookups.mu.Lock()
	defer r.lookups.mu.Unlock()
	if w.element != nil {
		w.lookup.removeLocked(w)
	}
}

// run looks the name up until no session waits any more. A session that joined
// during a query and requires a younger answer than that query guarantees gets the
// answer of the next one, which is mostly in the cache.
func (l *sharedLookup) run(ctx context.Context) {
	defer func() {
		if p := recover(); p != nil {
			for _, w := range l.take(func(*lookupWaiter) bool { return true }) {
				w.session.panicked(p)
			}
		}
	}()
	for {
		since, waiting := l.youngest()
		if !waiting {
			return
		}
		addrs, err := l.relay.lookUp(ctx, l.key.host, query{how: l.key.how, since: since})
		for _, w := range l.take(func(w *lookupWaiter) bool { return !w.query.since.After(since) }) {
			w.session.resolved(w, addrs, err)
		}
	}
}

// youngest returns the latest query.since of all waiters, and whether there are
// any.
func (l *sharedLookup) youngest() (since time.Time, waiting bool) {
	l.relay.lookups.mu.Lock()
	defer l.relay.lookups.mu.Unlock()
	for e := l.waiters.Front(); e != nil; e = e.Next() {
		if w := e.Value.(*lookupWaiter); w.query.since.After(since) {
			since = w.query.since
		}
	}
	return since, l.waiters.Len() > 0
}

// take removes the waiters that match, and returns them in order.
func (l *sharedLookup) take(match func(*lookupWaiter) bool) (taken []*lookupWaiter) {
	l.relay.lookups.mu.Lock()
	defer l.relay.lookups.mu.Unlock()
	for e := l.waiters.Front(); e != nil; {
		w := e.Value.(*lookupWaiter)
		e = e.Next()
		if match(w) {
			taken = append(taken, w)
			l.removeLocked(w)
		}
	}
	return taken
}

// removeLocked removes a waiter. The lookup ends with the last one.
func (l *sharedLookup) removeLocked(w *lookupWaiter) {
	l.waiters.Remove(w.element)
	w.element = nil
	if l.waiters.Len() == 0 {
		delete(l.relay.lookups.inFlight, l.key)
		l.timer.Stop()
		l.cancel()
	}
}

// expire ends the wait of the sessions whose connect timeout has expired. The
// lookup continues for the others.
func (l *sharedLookup) expire() {
	now := time.Now()
	expired := l.takeExpired(now)
	err := fmt.Errorf("lookup %s: %w", l.key.host, errConnectTimeout)
	for _, w := range expired {
		w.session.resolved(w, nil, err)
	}
}

func (l *sharedLookup) takeExpired(now time.Time) (expired []*lookupWaiter) {
	l.relay.lookups.mu.Lock()
	defer l.relay.lookups.mu.Unlock()
	for e := l.waiters.Front(); e != nil; e = l.waiters.Front() {
		w := e.Value.(*lookupWaiter)
		if wait := w.deadline.Sub(now); wait > 0 {
			l.timer.Reset(wait)
			break
		}
		expired = append(expired, w)
		l.removeLocked(w)
	}
	return expired
}

// resolved continues the attempt that waited for a lookup, unless the wait was
// cancelled in the meantime.
func (s *session) resolved(w *lookupWaiter, addrs []netip.Addr, err error) {
	defer s.guard()
	s.lock()
	defer s.unlock()
	if s.lookup != w {
		return
	}
	s.lookup = nil
	if err == nil {
		addrs, err = w.query.choose(s.newestLocked(w.backend, addrs), w.backend, upstream.UDP)
	}
	s.resolvedLocked(addrs, time.Now(), err)
}

// panicked logs a panic and ends the session.
func (s *session) panicked(p any) {
	s.relay.panicked(upstream.UDP, s.key.Client.String(), p)
	s.end(stream.Panicked)
}
