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
		case op < 3 && len(all) < 200:
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
		for i, s := range queue {
			if s.index != i || s.queue != &queue {
				t.Fatalf("step %d: the session at %d has index %d", step, i, s.index)
			}
		}
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
	if s.queue != nil || queue[:1][0] != nil {
		t.Fatal("the heap still refers to a removed session")
	}
}
