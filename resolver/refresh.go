package resolver

import (
	"container/heap"
	"time"
)

// maxRefreshing is the maximum number of concurrent background queries.
const maxRefreshing = 4

// refreshLoop refreshes entries when they are due and removes unused ones. It runs until Close.
func (c *Cache) refreshLoop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-c.wake:
		case <-c.ctx.Done():
			return
		}
		if wait, ok := c.refreshDue(time.Now()); ok {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
	}
}

// refreshDue handles the entries that are due at now. It returns the time until the next one is due,
// or false if there is nothing to do before a flight ends.
//
// An entry is wanted if it is held or was used within the last lifetime. Wanted entries are
// refreshed. Other entries expire, and are removed when they were not used for two lifetimes.
// Together with maxEntries this limits the memory.
func (c *Cache) refreshDue(now time.Time) (time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.due) > 0 && !c.closed {
		e := c.due[0]
		if wait := e.due.Sub(now); wait > 0 {
			return wait, true
		}
		idle, life := c.idle(e, now), e.life
		wanted := idle < life || c.held[e.name] > 0
		switch {
		case !wanted && idle >= 2*life:
			c.removeLocked(e)
		case !wanted:
			c.due.postpone(e, now.Add(2*life-idle))
		case e.addrs == nil:
			// The name never resolved. Only lookups query it.
			c.due.postpone(e, now.Add(life))
		case c.refreshing == maxRefreshing:
			return 0, false
		default:
			c.startLocked(e, now, true)
		}
	}
	return 0, false
}

// dueHeap is a heap of entries. The entry that is due first is at the top.
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

// Len, Less, Swap, Push and Pop implement [heap.Interface].

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
	(*h)[last] = nil // release the pointer
	*h = (*h)[:last]
	e.index = -1
	return e
}
