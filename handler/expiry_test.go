package handler

import (
	"math/rand/v2"
	"testing"
	"time"
)

// first returns the session that was really used least recently, after pushes,
// removals and uses in random order.
func TestExpiryFirst(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	relay := &Relay{opts: Options{IdleTimeout: time.Minute}}
	var queue expiry
	var all []*session
	now := int64(0)
	for step := range 50_000 {
		now++
		switch op := random.IntN(10); {
		case op < 3 && len(all) < maxRepairs:
			s := &session{relay: relay}
			s.used.Store(now)
			queue.push(s)
			all = append(all, s)
		case op < 4 && len(all) > 0:
			i := random.IntN(len(all))
			queue.remove(all[i])
			all[i] = all[len(all)-1]
			all = all[:len(all)-1]
		case len(all) > 0: // a datagram, which the heap does not notice
			all[random.IntN(len(all))].used.Store(now)
		}
		if random.IntN(3) > 0 {
			continue // let several changes accumulate
		}
		var want *session
		for _, s := range all {
			if want == nil || s.used.Load() < want.used.Load() {
				want = s
			}
		}
		if got := queue.first(); got != want {
			t.Fatalf("step %d: first returned the wrong session", step)
		}
		for i, item := range queue.indexedHeap {
			if s := item.element; int(s.index) != i || s.queue != &queue {
				t.Fatalf("step %d: the session at %d has index %d", step, i, s.index)
			}
		}
	}
}

// expired returns all sessions whose idle timeout has expired, in that order, and
// when the next one expires.
func TestExpiryExpired(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	relay := &Relay{opts: Options{IdleTimeout: time.Second}}
	var queue expiry
	const sessions = 1000
	for i := range sessions {
		s := &session{relay: relay}
		s.used.Store(int64(i))
		queue.push(s)
	}
	for i := range queue.indexedHeap {
		queue.indexedHeap[i].element.used.Add(random.Int64N(int64(time.Second)))
	}
	last, calls := int64(0), 0
	now := 1500 * time.Millisecond
	for {
		s, next := queue.expired(now)
		if calls++; s == nil && next == now {
			continue // more repairs
		}
		if s == nil {
			if front := queue.indexedHeap[0].element.deadline(); int64(next) > front || next <= now {
				t.Fatalf("next is %v, but a session expires at %v", next, time.Duration(front))
			}
			break
		}
		if s.deadline() < last || s.deadline() > int64(now) {
			t.Fatalf("a session that expires at %v came after %v", time.Duration(s.deadline()), time.Duration(last))
		}
		last = s.deadline()
		queue.remove(s)
	}
	for _, item := range queue.indexedHeap {
		if item.element.deadline() <= int64(now) {
			t.Fatal("an expired session is in the heap")
		}
	}
	if calls < sessions/maxRepairs {
		t.Errorf("%d calls made all repairs", calls)
	}
}

// One search makes a bounded number of repairs, however many sessions were used,
// and returns the session with the longest idle time that it has seen.
func TestExpiryRepairsAreBounded(t *testing.T) {
	relay := &Relay{opts: Options{IdleTimeout: time.Minute}}
	var queue expiry
	const sessions = 100_000
	for i := range sessions {
		s := &session{relay: relay}
		s.used.Store(int64(i))
		queue.push(s)
	}
	for _, item := range queue.indexedHeap {
		item.element.used.Add(sessions)
	}
	outdated := func() (n int) {
		for _, item := range queue.indexedHeap {
			if item.key != item.element.deadline() {
				n++
			}
		}
		return n
	}
	if got := queue.first(); got.used.Load() != sessions {
		t.Errorf("first returned the session used at %d, want %d", got.used.Load(), sessions)
	}
	if got := outdated(); got != sessions-maxRepairs {
		t.Errorf("%d keys repaired, want %d", sessions-got, maxRepairs)
	}
	before := outdated()
	newest := &session{relay: relay}
	newest.used.Store(3 * sessions)
	queue.push(newest)
	if got := before - outdated(); got != pushRepairs {
		t.Errorf("a push repaired %d keys, want %d", got, pushRepairs)
	}
}

func TestExpiryReleasesRemovedSessions(t *testing.T) {
	relay := &Relay{opts: Options{IdleTimeout: time.Minute}}
	var queue expiry
	if queue.first() != nil {
		t.Fatal("an empty heap has a first session")
	}
	s := &session{relay: relay}
	queue.push(s)
	queue.remove(s)
	if s.queue != nil || queue.indexedHeap[:1][0].element != nil {
		t.Fatal("the heap still refers to a removed session")
	}
}
