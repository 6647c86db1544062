package handler

import "time"

// expiry is a heap of sessions, the first to expire in front. With one idle timeout
// that is the longest-idle session.
//
// A datagram only changes session.used, so that the data path does not take the
// table's lock. The heap has an earlier value until it is repaired: the key of a
// session is never later than its deadline. Repairs are made where the heap is
// used, a bounded number each time.
type expiry struct{ indexedHeap[*session] }

const (
	// maxRepairs bounds the repairs of one search.
	maxRepairs = 64
	// pushRepairs is how many repairs each new session makes, so that searches
	// seldom find a heap with many outdated keys.
	pushRepairs = 2
)

// entry is a session's place in the table. It is guarded by sessions.mu.
type entry struct {
	queue      *expiry // the heap that holds the session; nil: none
	index      int32   // in that heap
	listed     bool    // the session is in sessions.byKey
	withSocket bool    // the session has a socket
	answered   bool    // the session has had an answer
}

func (e *entry) setIndex(index int) { e.index = int32(index) }

// deadline returns when the session's idle timeout expires, in nanoseconds after
// sessions.epoch.
func (s *session) deadline() int64 { return s.used.Load() + int64(s.relay.opts.IdleTimeout) }

func (q *expiry) push(s *session) {
	s.queue = q
	q.indexedHeap.push(s.deadline(), s)
	for range pushRepairs {
		if !q.repairFirst() {
			break
		}
	}
}

func (q *expiry) remove(s *session) {
	q.indexedHeap.remove(int(s.index))
	s.queue = nil
}

// repairFirst corrects the key of the session in front. It returns false if it was
// correct or the heap is empty.
func (q *expiry) repairFirst() bool {
	if len(q.indexedHeap) == 0 {
		return false
	}
	deadline := q.indexedHeap[0].element.deadline()
	if deadline == q.indexedHeap[0].key {
		return false
	}
	q.update(0, deadline)
	return true
}

// first returns the session that is the first to expire, or nil if there is none.
// If it has repaired maxRepairs keys, it returns the first of the sessions that it
// has seen.
func (q *expiry) first() (first *session) {
	for range maxRepairs {
		if len(q.indexedHeap) == 0 {
			return nil
		}
		s := q.indexedHeap[0].element
		if !q.repairFirst() {
			return s
		}
		if first == nil || s.deadline() < first.deadline() {
			first = s
		}
	}
	return first
}

// expired returns the session in front if its idle timeout has expired. Otherwise
// it returns when to look again; 0: the heap is empty.
func (q *expiry) expired(now time.Duration) (s *session, next time.Duration) {
	for range maxRepairs {
		if len(q.indexedHeap) == 0 {
			return nil, 0
		}
		if key := time.Duration(q.indexedHeap[0].key); key > now {
			return nil, key
		}
		s := q.indexedHeap[0].element
		if !q.repairFirst() {
			return s, 0
		}
	}
	return nil, now // there may be more, but others wait for the table's lock
}
