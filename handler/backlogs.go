package handler

import (
	"container/heap"
	"sync"
	"sync/atomic"
	"time"
)

// BacklogLimit is the memory in bytes for the unanswered datagrams of all UDP
// sessions of a process.
const BacklogLimit = 64 << 20

// Backlogs bounds the memory of the backlogs of all sessions that use it. It
// counts what they hold, spare memory included. Above the limit, it first takes
// the spare memory from all of them, and then the oldest datagram of all until
// the rest is within the limit.
//
// Invariant: while no session is locked, held is the sum of backlog.held of all
// sessions. Until the goroutines that have just added datagrams return, it can be
// above the limit by what they have added.
//
// A session locks its shard when it begins and when it ceases to hold memory. It
// keeps a little between datagrams, so a session that is answered at once touches
// nothing that it shares with others. All other work is done above the limit.
type Backlogs struct {
	epoch time.Time // set once; the zero of backlog.arrived
	limit int64     // set once
	held  atomic.Int64

	shards [16]backlogShard // all sessions that hold memory

	mu       sync.Mutex    // held while datagrams are dropped; guards the fields below
	oldest   oldestFirst   // the sessions listed last from which nothing newer than listedAt was dropped
	listedAt time.Duration // when the sessions were listed last
}

// backlogShard is a part of the sessions that hold memory. Its lock may be taken
// while session.mu is held, and never the other way round.
type backlogShard struct {
	mu       sync.Mutex
	sessions []*session // session.inShard is the index
	_        [64]byte   // the next shard is in another cache line
}

// NewBacklogs returns a Backlogs with a limit in bytes, which is [BacklogLimit]
// outside of tests. All relays of a process share one.
func NewBacklogs(limit int64) *Backlogs {
	return &Backlogs{epoch: time.Now(), limit: limit}
}

// Held returns the number of bytes that backlogs hold.
func (b *Backlogs) Held() int64 { return b.held.Load() }

// since returns a time as backlogs store it.
func (b *Backlogs) since(now time.Time) time.Duration { return now.Sub(b.epoch) }

// retain returns how many bytes an empty backlog may keep: none while more than
// half of the memory is in use. Spare memory thus never takes more than half.
func (b *Backlogs) retain() int {
	if b.held.Load() > b.limit/2 {
		return 0
	}
	return retainedBytes
}

// recount changes what a session is counted with. It returns whether the limit is
// exceeded; the caller must then call shrink without a session's lock.
//
// Precondition: the session is locked, and its backlog holds other memory than
// when it was counted last.
func (b *Backlogs) recount(s *session) (exceeded bool) {
	before := s.counted
	s.counted = s.backlog.held
	switch {
	case before == 0:
		b.shard(s).add(s)
	case s.counted == 0:
		b.shard(s).remove(s)
	}
	return b.held.Add(int64(s.counted-before)) > b.limit && s.counted > before
}

func (b *Backlogs) shard(s *session) *backlogShard {
	return &b.shards[int(s.key.Client.Port())%len(b.shards)]
}

func (h *backlogShard) add(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.inShard = int32(len(h.sessions))
	h.sessions = append(h.sessions, s)
}

func (h *backlogShard) remove(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	end := len(h.sessions) - 1
	last := h.sessions[end]
	h.sessions[s.inShard], last.inShard = last, s.inShard
	h.sessions[end] = nil
	h.sessions = h.sessions[:end]
}

// shrink drops datagrams, the oldest of all sessions first, until the rest is
// within the limit. Goroutines that add datagrams meanwhile wait here for their
// turn, so they cannot add faster than datagrams are dropped.
//
// The sessions are listed rarely: what arrives after a listing is newer than all
// datagrams that arrived before it.
func (b *Backlogs) shrink() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.held.Load() > b.limit {
		if len(b.oldest) == 0 {
			if b.list(); len(b.oldest) == 0 {
				return
			}
			continue // the spare memory may have been enough
		}
		first := &b.oldest[0]
		next, ok := first.session.dropOldest(first.arrived)
		if ok && next <= b.listedAt {
			first.arrived = next
			heap.Fix(&b.oldest, 0)
		} else {
			heap.Pop(&b.oldest)
		}
	}
}

// list frees the spare memory of all sessions, and makes oldest the sessions that
// have datagrams.
func (b *Backlogs) list() {
	b.listedAt = b.since(time.Now())
	var sessions []*session
	for i := range b.shards {
		shard := &b.shards[i]
		shard.mu.Lock()
		sessions = append(sessions, shard.sessions...)
		shard.mu.Unlock()
	}
	for _, s := range sessions {
		if arrived, ok := s.freeSpare(); ok {
			b.oldest = append(b.oldest, backlogAge{s, arrived})
		}
	}
	heap.Init(&b.oldest)
}

// backlogAge is the age of a session's backlog.
type backlogAge struct {
	session *session
	arrived time.Duration // when the oldest datagram of the session arrived
}

// oldestFirst is a heap of sessions, ordered by the age of their backlogs. It
// implements [heap.Interface].
type oldestFirst []backlogAge

func (h oldestFirst) Len() int           { return len(h) }
func (h oldestFirst) Less(i, j int) bool { return h[i].arrived < h[j].arrived }
func (h oldestFirst) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *oldestFirst) Push(x any)        { *h = append(*h, x.(backlogAge)) }

func (h *oldestFirst) Pop() any {
	last := len(*h) - 1
	age := (*h)[last]
	(*h)[last] = backlogAge{}
	*h = (*h)[:last]
	return age
}
