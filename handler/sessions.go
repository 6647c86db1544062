package handler

import (
	"errors"
	"sync"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// sessions is the table of a service's UDP sessions. It limits their number, ends
// idle sessions and evicts sessions to make room. mu must not be held while a
// session's own lock is taken. The budget's lock may be taken while mu is held.
type sessions struct {
	epoch   time.Time      // set once; the zero of session.used and of all times of the table
	onEmpty func()         // set once; called under mu when the last session has ended
	budget  *SessionBudget // set once
	size    share          // of the budget: the sessions; guarded by budget.mu, as is waiting
	waiting share          // of the budget: the sessions without an answer

	mu     sync.Mutex // guards the fields below
	byKey  map[Key]*session
	queues [4]expiry // see queueOf
	timer  *time.Timer
	due    time.Duration // when timer fires; 0: it is stopped
	closed bool
}

func newSessions(budget *SessionBudget, onEmpty func()) *sessions {
	t := &sessions{epoch: time.Now(), onEmpty: onEmpty, budget: budget, byKey: make(map[Key]*session)}
	t.size.table, t.waiting.table = t, t
	return t
}

// queueOf returns the heap for sessions that have had an answer or not, and have a
// socket or not.
func (t *sessions) queueOf(answered, socket bool) *expiry {
	index := 0
	if answered {
		index += 2
	}
	if socket {
		index++
	}
	return &t.queues[index]
}

func (t *sessions) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byKey)
}

// evictTries bounds how often a new session evicts another one and finds that its
// place was taken.
const evictTries = 3

// get returns the session of a client, and adds one if there is none. It may end
// another session to make room. s is nil if a limit is reached, which refusal
// names, or if the table is closed. The error is errRetired if the relay was
// retired.
func (t *sessions) get(key Key, r *Relay) (s *session, refusal Refusal, err error) {
	for tries := 0; ; tries++ {
		s, victim, refusal, err := t.tryGet(key, r, tries == evictTries)
		if victim != nil {
			victim.end(evictedForRoom)
		}
		if err != errBudgetUsed {
			return s, refusal, err
		}
		t.budget.evict(t, false)
	}
}

// errBudgetUsed is the error of tryGet while another session must be evicted.
var errBudgetUsed = errors.New("the budget of sessions is used up")

// tryGet is get without an eviction from the budget: the error is errBudgetUsed if
// the budget is used up and may not be exceeded. victim, if not nil, was removed
// from the table to make room, and the caller must end it.
func (t *sessions) tryGet(key Key, r *Relay, mayExceed bool) (s, victim *session, refusal Refusal, err error) {
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
	if limit := r.opts.MaxUDPSessions; limit > 0 && len(t.byKey) >= limit {
		order := longestIdle
		if isFlood(t.unansweredLocked(), len(t.byKey)) {
			order = unansweredOnly
		}
		victim = t.evictLocked(order, false)
	}
	if !t.budget.enter(t, mayExceed) {
		r.service.admission.leave(ticket)
		return nil, victim, "", errBudgetUsed
	}
	s = newSession(key, r, ticket)
	t.byKey[key], s.listed = s, true
	t.enqueueLocked(s)
	return s, victim, "", nil
}

// unansweredLocked returns the number of sessions without an answer.
func (t *sessions) unansweredLocked() int {
	return len(t.queueOf(false, false).indexedHeap) + len(t.queueOf(false, true).indexedHeap)
}

// enqueueLocked puts a session into the heap that it belongs to.
func (t *sessions) enqueueLocked(s *session) {
	t.queueOf(s.answered, s.withSocket).push(s)
	t.armLocked(time.Duration(s.deadline()))
}

// requeueLocked moves a session to the heap that it belongs to. A session that
// takeIdle has taken is moved by putBack.
func (t *sessions) requeueLocked(s *session) {
	if s.queue != nil {
		s.queue.remove(s)
		t.queueOf(s.answered, s.withSocket).push(s)
	}
}

// remove removes a session from the table.
func (t *sessions) remove(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removeLocked(s)
}

func (t *sessions) removeLocked(s *session) {
	if s.listed {
		s.listed = false
		delete(t.byKey, s.key)
		t.budget.leave(t, s.answered)
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

// setAnswered records a session's first answer.
func (t *sessions) setAnswered(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.answered || !s.listed {
		return
	}
	s.answered = true
	t.budget.answer(t)
	t.requeueLocked(s)
}

// setSocket records whether a session has a socket.
func (t *sessions) setSocket(s *session, has bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.withSocket != has {
		s.withSocket = has
		t.requeueLocked(s)
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
	for i := range t.queues {
		s, next := t.queues[i].expired(now)
		if s != nil {
			t.queues[i].remove(s)
			return s
		}
		if next != 0 {
			t.armLocked(next)
		}
	}
	return nil
}

// putBack returns a session to its heap, because it was used after takeIdle.
func (t *sessions) putBack(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.listed {
		t.enqueueLocked(s)
	}
}
