package handler

import (
	"container/heap"
	"sync"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// sessions is a service's table of UDP sessions. It bounds them, ends the idle
// ones and finds the longest-idle. Its lock is never held while a session's
// own is taken.
type sessions struct {
	epoch time.Time // set once: what times count from
	empty func()    // set once: told, under mu, that the last session has ended

	mu     sync.Mutex // guards what follows
	byKey  map[Key]*session
	silent expiry // those whose backend has not answered: the first to go
	spoken expiry // the others
	timer  *time.Timer
	due    time.Duration // when timer fires, after epoch; 0: not set
	closed bool
}

// entry is a session's place in the table, guarded by sessions.mu.
type entry struct {
	queue *expiry       // silent or spoken; nil when in neither
	index int           // in that heap
	stamp time.Duration // session.used when it was last put in order
}

func newSessions(empty func()) *sessions {
	return &sessions{epoch: time.Now(), empty: empty, byKey: make(map[Key]*session)}
}

func (t *sessions) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byKey)
}

// get finds the session of a client or makes one. victim is one that had to
// make room, for the caller to end; s is nil where there is no room for one
// more, which the refusal says, or once the table is closed.
func (t *sessions) get(key Key, r *Relay) (s, victim *session, refusal Refusal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.byKey[key]; s != nil || t.closed {
		return s, nil, ""
	}
	ticket, refusal := r.service.admission.admit(&r.opts, key.Client.Addr().Unmap())
	if refusal != "" {
		return nil, nil, refusal
	}
	if len(t.byKey) >= r.opts.MaxUDPSessions {
		victim = t.evictLocked((*expiry).first)
	}
	s = newSession(key, r, ticket)
	s.touch()
	t.byKey[key] = s
	t.silent.push(s)
	t.armLocked(s.deadline())
	return s, victim, ""
}

// evict takes a session out of the table whose end sets a socket free. The
// caller ends it.
func (t *sessions) evict() *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.evictLocked((*expiry).firstHolder)
}

// evictLocked takes the first session out of the table, first among those
// that never had an answer.
func (t *sessions) evictLocked(first func(*expiry) *session) *session {
	for _, queue := range []*expiry{&t.silent, &t.spoken} {
		if victim := first(queue); victim != nil {
			t.forgetLocked(victim)
			return victim
		}
	}
	return nil
}

// remove takes a session that has ended out of the table.
func (t *sessions) remove(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgetLocked(s)
}

func (t *sessions) forgetLocked(s *session) {
	if t.byKey[s.key] == s {
		delete(t.byKey, s.key)
	}
	if s.queue != nil {
		s.queue.take(s)
	}
	if len(t.byKey) > 0 {
		return
	}
	if t.timer != nil {
		t.timer.Stop()
		t.due = 0
	}
	t.empty()
}

// heard books that a session has had its first answer.
func (t *sessions) heard(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.queue == &t.silent {
		t.silent.take(s)
		t.spoken.push(s)
	}
}

// leave tells all sessions that b was demoted.
func (t *sessions) leave(b *upstream.Backend) {
	for _, s := range t.all() {
		s.leave(b)
	}
}

func (t *sessions) all() []*session {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]*session, 0, len(t.byKey))
	for _, s := range t.byKey {
		list = append(list, s)
	}
	return list
}

// refuse takes no new sessions from now on.
func (t *sessions) refuse() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

// endQuiet ends sessions that are as good as finished.
func (t *sessions) endQuiet(quiet time.Duration) {
	for _, s := range t.all() {
		s.endIfQuiet(quiet)
	}
}

// armLocked has sweep called at due, unless it is called earlier anyway.
func (t *sessions) armLocked(due time.Duration) {
	if t.due != 0 && t.due <= due {
		return
	}
	t.due = due
	wait := due - time.Since(t.epoch)
	if t.timer == nil {
		t.timer = time.AfterFunc(wait, t.sweep)
		return
	}
	t.timer.Reset(wait)
}

// sweep ends the sessions whose idle timeout is over, one by one: clients need
// the table's lock meanwhile.
func (t *sessions) sweep() {
	for s := t.takeIdle(); s != nil; s = t.takeIdle() {
		if !s.endIfIdle() {
			t.putBack(s)
		}
	}
}

// takeIdle takes a session whose idle timeout is over out of its queue; nil,
// and sweep is called again in time, if there is none.
func (t *sessions) takeIdle() *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.due = 0
	now := time.Since(t.epoch)
	for _, queue := range []*expiry{&t.silent, &t.spoken} {
		s := queue.first()
		if s == nil {
			continue
		}
		if s.deadline() <= now {
			queue.take(s)
			return s
		}
		t.armLocked(s.deadline())
	}
	return nil
}

// putBack takes a session that a datagram has just woken into order again.
func (t *sessions) putBack(s *session) {
	s.lock()
	defer s.unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byKey[s.key] != s {
		return
	}
	queue := &t.silent
	if s.served != nil {
		queue = &t.spoken
	}
	queue.push(s)
	t.armLocked(s.deadline())
}

// expiry is a heap of sessions, the longest-idle first. A datagram only marks
// its session used; the order is mended when somebody looks (first), so that
// the data path never takes the table's lock for it.
type expiry []*session

// deadline is when the idle timeout of the session ends, as far as the table
// has noticed.
func (s *session) deadline() time.Duration { return s.stamp + s.relay.opts.IdleTimeout }

func (q expiry) Len() int           { return len(q) }
func (q expiry) Less(i, j int) bool { return q[i].deadline() < q[j].deadline() }
func (q expiry) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push implements [heap.Interface]; use push.
func (q *expiry) Push(x any) {
	s := x.(*session)
	s.index = len(*q)
	*q = append(*q, s)
}

// Pop implements [heap.Interface]; use take.
func (q *expiry) Pop() any {
	last := len(*q) - 1
	s := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return s
}

func (q *expiry) push(s *session) {
	s.queue, s.stamp = q, time.Duration(s.used.Load())
	heap.Push(q, s)
}

func (q *expiry) take(s *session) {
	heap.Remove(q, s.index)
	s.queue = nil
}

// first is the session that has been idle longest; nil if there is none.
func (q *expiry) first() *session {
	for len(*q) > 0 {
		s := (*q)[0]
		used := time.Duration(s.used.Load())
		if used == s.stamp {
			return s
		}
		s.stamp = used
		heap.Fix(q, 0)
	}
	return nil
}

// firstHolder is the session that has been idle longest of those with a
// socket. It looks at all of them, if the first of all has none.
func (q *expiry) firstHolder() *session {
	holder := q.first()
	if holder == nil || holder.holds.Load() {
		return holder
	}
	holder = nil
	for _, s := range *q {
		if s.holds.Load() && (holder == nil || s.used.Load() < holder.used.Load()) {
			holder = s
		}
	}
	return holder
}
