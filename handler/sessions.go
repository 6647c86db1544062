package handler

import (
	"container/heap"
	"sync"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// sessions is the table of a service's UDP sessions. It limits their number, ends
// idle sessions and evicts the longest-idle one. mu must not be held while a
// session's own lock is taken.
type sessions struct {
	epoch   time.Time // set once; the zero of session.used and of the durations below
	onEmpty func()    // set once; called under mu when the last session has ended

	mu         sync.Mutex // guards the fields below
	byKey      map[Key]*session
	unanswered expiry // sessions without an answer so far: evicted first
	answered   expiry // the other sessions
	timer      *time.Timer
	due        time.Duration // when timer fires; 0: it is stopped
	closed     bool
}

// entry is a session's place in the table. It is guarded by sessions.mu.
type entry struct {
	queue *expiry       // the heap that holds the session; nil: none
	index int           // in that heap
	stamp time.Duration // session.used when the session was last put in order
}

func newSessions(onEmpty func()) *sessions {
	return &sessions{epoch: time.Now(), onEmpty: onEmpty, byKey: make(map[Key]*session)}
}

func (t *sessions) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byKey)
}

// get returns the session of a client, and adds one if there is none. victim, if
// not nil, was evicted for it, and the caller must end it. s is nil if a limit is
// reached, which refusal names, or if the table is closed. The error is errRetired
// if the relay was retired.
func (t *sessions) get(key Key, r *Relay) (s, victim *session, refusal Refusal, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch s := t.byKey[key]; {
	case s != nil:
		return s, nil, "", nil
	case r.retired:
		return nil, nil, "", errRetired
	case t.closed:
		return nil, nil, "", nil
	}
	ticket, refusal := r.service.admission.admit(&r.opts, key.Client.Addr())
	if refusal != "" {
		return nil, nil, refusal, nil
	}
	if len(t.byKey) >= r.opts.MaxUDPSessions {
		victim = t.evictLocked((*expiry).first)
	}
	s = newSession(key, r, ticket)
	s.touch()
	t.byKey[key] = s
	t.unanswered.push(s)
	t.armLocked(s.deadline())
	return s, victim, "", nil
}

// evictWithSocket evicts a session whose end closes a socket. The caller must
// end it. It returns nil if there is none.
func (t *sessions) evictWithSocket() *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.evictLocked((*expiry).firstWithSocket)
}

// evictLocked removes a session from the table and returns it. first selects it
// among the sessions without an answer, and then among the others.
func (t *sessions) evictLocked(first func(*expiry) *session) *session {
	for _, queue := range []*expiry{&t.unanswered, &t.answered} {
		if victim := first(queue); victim != nil {
			t.removeLocked(victim)
			return victim
		}
	}
	return nil
}

// remove removes a session from the table.
func (t *sessions) remove(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removeLocked(s)
}

func (t *sessions) removeLocked(s *session) {
	if t.byKey[s.key] == s {
		delete(t.byKey, s.key)
	}
	if s.queue != nil {
		s.queue.remove(s)
	}
	if len(t.byKey) > 0 {
		return
	}
	if t.timer != nil {
		t.timer.Stop()
		t.due = 0
	}
	t.onEmpty()
}

// moveToAnswered moves a session that got its first answer to the other heap.
func (t *sessions) moveToAnswered(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.queue == &t.unanswered {
		t.unanswered.remove(s)
		t.answered.push(s)
	}
}

// leaveDemoted moves the sessions that wait for an answer of b, which was
// demoted, to the next backend.
func (t *sessions) leaveDemoted(b *upstream.Backend) {
	for _, s := range t.all() {
		s.leaveDemoted(b)
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

// refuse closes the table: no new sessions are added.
func (t *sessions) refuse() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

// endQuiet ends the sessions that do not wait for an answer and have been idle
// for at least that long.
func (t *sessions) endQuiet(quiet time.Duration) {
	for _, s := range t.all() {
		s.endIfQuiet(quiet)
	}
}

// armLocked makes the timer call sweep at due, unless it fires earlier anyway.
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

// A timer is late if it runs lateTimer or more after its time: the process was
// stopped, or the system overloaded. Datagrams may have arrived in the meantime
// that no session could receive. A late timer therefore ends no session and fails
// no attempt, and runs again after catchUp.
const (
	lateTimer = 100 * time.Millisecond
	catchUp   = time.Second
)

// sweep ends the sessions whose idle timeout has expired. It takes them from the
// table one by one, so that clients need not wait long for the table's lock.
func (t *sessions) sweep() {
	if t.postponeLateSweep() {
		return
	}
	for s := t.takeIdle(); s != nil; s = t.takeIdle() {
		if !s.endIfIdle() {
			t.putBack(s)
		}
	}
}

// postponeLateSweep makes the timer call sweep again after catchUp if this call
// is late, and reports whether it is.
func (t *sessions) postponeLateSweep() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Since(t.epoch)
	if t.due == 0 || now-t.due < lateTimer {
		return false
	}
	t.due = 0
	t.armLocked(now + catchUp)
	return true
}

// takeIdle removes a session whose idle timeout has expired from its heap, but
// not from the table, and returns it. If there is none it sets the timer for the
// next one and returns nil.
func (t *sessions) takeIdle() *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.due = 0
	now := time.Since(t.epoch)
	for _, queue := range []*expiry{&t.unanswered, &t.answered} {
		s := queue.first()
		if s == nil {
			continue
		}
		if s.deadline() <= now {
			queue.remove(s)
			return s
		}
		t.armLocked(s.deadline())
	}
	return nil
}

// putBack returns a session to its heap, because it was used after takeIdle.
func (t *sessions) putBack(s *session) {
	s.lock()
	defer s.unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byKey[s.key] != s {
		return
	}
	queue := &t.unanswered
	if s.answeredBy != nil {
		queue = &t.answered
	}
	queue.push(s)
	t.armLocked(s.deadline())
}

// expiry is a heap of sessions with the longest-idle one first. A datagram only
// changes session.used, so that the data path does not take the table's lock.
// first corrects the order of the heap.
type expiry []*session

// deadline returns when the session's idle timeout expires, according to its
// stamp.
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

// Pop implements [heap.Interface]; use remove.
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

func (q *expiry) remove(s *session) {
	heap.Remove(q, s.index)
	s.queue = nil
}

// first returns the longest-idle session, or nil if there is none.
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

// firstWithSocket returns the longest-idle session that has a socket, or nil if
// there is none. It checks all sessions if the first one has no socket.
func (q *expiry) firstWithSocket() *session {
	oldest := q.first()
	if oldest == nil || oldest.hasSocket.Load() {
		return oldest
	}
	oldest = nil
	for _, s := range *q {
		if s.hasSocket.Load() && (oldest == nil || s.used.Load() < oldest.used.Load()) {
			oldest = s
		}
	}
	return oldest
}
