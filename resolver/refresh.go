package resolver

import (
	"container/heap"
	"math/rand/v2"
	"time"
)

const (
	// maxRefreshing is how many names are refreshed in the background at once.
	maxRefreshing = 4

	// The pause after a failed refresh is a tenth of the TTL, within these bounds.
	minPause = 5 * time.Second
	maxPause = time.Minute
)

// keepFresh is the one goroutine that looks after all entries: it refreshes them when they are due,
// and forgets those nobody wants. It ends with Close.
func (c *Cache) keepFresh() {
	alarm := time.NewTimer(0)
	defer alarm.Stop()
	for {
		select {
		case <-alarm.C:
		case <-c.wake:
		case <-c.ctx.Done():
			return
		}
		if wait, ok := c.refreshDue(time.Now()); ok {
			alarm.Reset(wait)
		} else {
			alarm.Stop()
		}
	}
}

// refreshDue looks after the entries that are due now. It returns how long it is until the next, or
// false when only a landing flight will bring something to do.
//
// An entry is wanted while it is held or was used within the last TTL. A wanted one is refreshed.
// One that is not is left to expire; when it was not used for two TTLs it is forgotten. That and
// maxEntries bound the memory.
func (c *Cache) refreshDue(now time.Time) (time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.due) > 0 && !c.closed {
		e := c.due[0]
		if wait := e.due.Sub(now); wait > 0 {
			return wait, true
		}
		idle := c.idle(e, now)
		wanted := idle < c.ttl || c.held[e.name] > 0
		switch {
		case !wanted && idle >= 2*c.ttl:
			c.forgetLocked(e)
		case !wanted:
			c.due.postpone(e, now.Add(2*c.ttl-idle))
		case e.addrs == nil:
			// It never resolved: that is for those who use it to try.
			c.due.postpone(e, now.Add(c.ttl))
		case c.refreshing == maxRefreshing:
			return 0, false
		default:
			c.startLocked(e, now, true)
		}
	}
	return 0, false
}

// dueAfterAnswer is when an answer learnt now is to be refreshed: somewhere in the last tenth of
// its life, so that names learnt together are not asked for together, and not at its very end, so
// that the new answer is there before the old one expires.
func (c *Cache) dueAfterAnswer(now time.Time) time.Time {
	return now.Add(c.ttl - c.ttl/10 + rand.N(c.ttl/12+1))
}

// dueAfterFailure is when keepFresh is to look at a name again whose query failed.
func (c *Cache) dueAfterFailure(e *entry, now time.Time) time.Time {
	if e.addrs == nil {
		return now.Add(c.ttl)
	}
	return now.Add(min(max(c.ttl/10, minPause), maxPause))
}

// dueHeap holds entries, the one due first at the top.
type dueHeap []*entry

func (h *dueHeap) add(e *entry) { heap.Push(h, e) }

func (h *dueHeap) remove(e *entry) {
	if e.index >= 0 {
		heap.Remove(h, e.index)
	}
}

func (h *dueHeap) postpone(e *entry, due time.Time) {
	e.due = due
	heap.Fix(h, e.index)
}

// Len, Less, Swap, Push and Pop are for container/heap.

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }

func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *dueHeap) Push(x any) {
	e := x.(*entry)
	e.index = len(*h)
	*h = append(*h, e)
}

func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil // let go of it
	*h = (*h)[:last]
	e.index = -1
	return e
}
