package handler

import (
	"sync"

	"github.com/async-relay/caddy-relay/internal/dgram"
)

// SessionBudget bounds the UDP sessions of all services of a process, because each
// of them holds a descriptor and a port. When it is used up, a new session
// replaces another one, see [SessionBudget.evict].
type SessionBudget struct {
	limit  int          // set once
	engine dgram.Engine // set once; nil: it keeps no spare sockets

	mu         sync.Mutex // guards the fields below and the shares of tables; no other lock is taken while it is held
	sessions   int
	unanswered int // sessions without an answer so far
	bySize     indexedHeap[*share]
	byWaiting  indexedHeap[*share]
}

// share is what a table has of a budget: its sessions, or those of them without an
// answer. It is in a heap, the largest first, while it is above 0.
type share struct {
	table *sessions
	count int
	index int
}

func (s *share) setIndex(index int) { s.index = index }

// NewSessionBudget returns a budget for at most limit sessions, whose sockets are
// opened by engine.
func NewSessionBudget(limit int, engine dgram.Engine) *SessionBudget {
	return &SessionBudget{limit: limit, engine: engine}
}

// Limit returns the largest number of sessions.
func (b *SessionBudget) Limit() int { return b.limit }

// enter counts a new session of a table. It returns false, and does nothing, if
// the budget is used up and may not be exceeded.
func (b *SessionBudget) enter(t *sessions, mayExceed bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sessions >= b.limit && !mayExceed {
		return false
	}
	b.sessions++
	b.unanswered++
	t.size.add(&b.bySize, 1)
	t.waiting.add(&b.byWaiting, 1)
	return true
}

// answer counts a session's first answer.
func (b *SessionBudget) answer(t *sessions) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unanswered--
	t.waiting.add(&b.byWaiting, -1)
}

// leave counts the end of a session.
func (b *SessionBudget) leave(t *sessions, answered bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sessions--
	t.size.add(&b.bySize, -1)
	if !answered {
		b.unanswered--
		t.waiting.add(&b.byWaiting, -1)
	}
}

// add changes the share in its heap.
func (s *share) add(h *indexedHeap[*share], change int) {
	before := s.count
	s.count += change
	switch key := -int64(s.count); {
	case before == 0:
		h.push(key, s)
	case s.count == 0:
		h.remove(s.index)
	default:
		h.update(s.index, key)
	}
}

// isFlood reports whether so many sessions are without an answer that most of them
// are no clients: more than a quarter.
func isFlood(unanswered, sessions int) bool { return unanswered*4 > sessions }

// evict ends a session to make room for one of the table payer, or for TCP if payer
// is nil. It reports whether there was one. The tables that use most of the budget
// pay, the given one first if several are equal:
//
//   - A session without an answer is evicted from the table that has the most of
//     them, if it has been silent for silentFor or there is a flood.
//   - Otherwise the longest-idle session is evicted from the largest table.
//
// So a flood of one service takes at most that quarter from the largest service, and
// nothing from one that is not larger. With needSocket, only a session with a
// socket is evicted. For TCP, see [SessionBudget.FreeDescriptor].
func (b *SessionBudget) evict(payer *sessions, needSocket bool) bool {
	victim := b.takeVictim(payer, needSocket)
	if victim == nil {
		return false
	}
	victim.end(evictedForRoom)
	return true
}

func (b *SessionBudget) takeVictim(payer *sessions, needSocket bool) *session {
	b.mu.Lock()
	preferred := silentOnly
	if isFlood(b.unanswered, b.sessions) {
		preferred = unansweredOnly
	}
	otherwise := longestIdle
	forTCP := payer == nil
	if forTCP && b.sessions <= b.limit/2 {
		preferred, otherwise = silentOnly, silentOnly
	}
	waiting, largest := first(b.byWaiting), first(b.bySize)
	if payer != nil && waiting != nil && payer.waiting.count >= waiting.waiting.count {
		waiting = payer
	}
	if payer != nil && largest != nil && payer.size.count >= largest.size.count {
		largest = payer
	}
	kept := forTCP && b.sessions <= b.limit/8
	b.mu.Unlock()
	if kept {
		return nil
	}
	if waiting != nil {
		if victim := waiting.evict(preferred, needSocket); victim != nil {
			return victim
		}
	}
	if largest != nil {
		if victim := largest.evict(otherwise, needSocket); victim != nil {
			return victim
		}
	}
	// Those tables have changed meanwhile, or have no session with a socket.
	for _, t := range b.tables() {
		if victim := t.evict(otherwise, needSocket); victim != nil {
			return victim
		}
	}
	return nil
}

// first returns the table with the largest share, or nil if there is none.
func first(h indexedHeap[*share]) *sessions {
	if len(h) == 0 {
		return nil
	}
	return h[0].element.table
}

// tables returns all tables that have sessions.
func (b *SessionBudget) tables() []*sessions {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]*sessions, len(b.bySize))
	for i, item := range b.bySize {
		list[i] = item.element.table
	}
	return list
}

// FreeDescriptor frees a descriptor for TCP: that of a socket kept for later
// sessions or else that of a session. It reports whether there was one. Sessions
// keep half of the budget, or an eighth if the others are silent and have had no
// answer.
func (b *SessionBudget) FreeDescriptor() bool {
	if b.closeSpares() {
		return true
	}
	if !b.evict(nil, true) {
		return false
	}
	b.closeSpares() // the session's socket is one now
	return true
}

func (b *SessionBudget) closeSpares() bool { return b.engine != nil && b.engine.CloseSpares() }
