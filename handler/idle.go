package handler

import (
	"sync"
	"sync/atomic"
	"time"
)

// wheelSlots is how many parts a wheel divides its timeout into, which is how
// much later than it should an end may come.
const wheelSlots = 256

// minTick is the shortest part, for timeouts that are short themselves.
const minTick = 2 * time.Millisecond

// wheel ends relays that have been idle for a timeout, the same for all of
// them. It is coarse: a relay is looked at when its timeout would be over had
// it not been used since, so that bytes that move cost a store and no more.
// One timer runs while it has relays.
type wheel struct {
	timeout time.Duration // set once, as are tick and epoch
	tick    time.Duration
	epoch   time.Time

	mu    sync.Mutex // guards what follows
	slots [wheelSlots + 2]*idler
	at    int64 // the tick that was looked at last
	count int
	timer *time.Timer
}

// idler is what a wheel turns: a relay's place in it.
type idler struct {
	used  atomic.Int64 // when bytes last moved, after the wheel's epoch
	owner interface{ endIdle() }

	prev, next *idler // guarded by wheel.mu, as is slot
	slot       int    // -1: in none
}

func newWheel(timeout time.Duration) *wheel {
	return &wheel{timeout: timeout, tick: max(timeout/wheelSlots, minTick), epoch: time.Now()}
}

func (w *wheel) now() int64 { return int64(time.Since(w.epoch)) }

// touch books that bytes have moved.
func (w *wheel) touch(i *idler) { i.used.Store(w.now()) }

// add takes a relay in, as used just now.
func (w *wheel) add(i *idler) {
	w.touch(i)
	w.putBack(i)
}

// putBack takes a relay in that was found idle and is not.
func (w *wheel) putBack(i *idler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.count == 0 {
		w.at = w.now() / int64(w.tick)
		if w.timer == nil {
			w.timer = time.AfterFunc(w.tick, w.turn)
		} else {
			w.timer.Reset(w.tick)
		}
	}
	w.count++
	w.placeLocked(i)
}

// remove takes a relay out, if it is in.
func (w *wheel) remove(i *idler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i.slot < 0 {
		return
	}
	w.unlinkLocked(i)
	w.countDownLocked()
}

func (w *wheel) countDownLocked() {
	if w.count--; w.count == 0 {
		w.timer.Stop()
	}
}

// placeLocked puts a relay where its timeout is over, or where it is looked at
// again, if that is further away than the wheel is long.
func (w *wheel) placeLocked(i *idler) {
	due := (i.used.Load()+int64(w.timeout))/int64(w.tick) + 1
	due = min(max(due, w.at+1), w.at+wheelSlots+1)
	i.slot = int(due % int64(len(w.slots)))
	head := w.slots[i.slot]
	i.prev, i.next = nil, head
	if head != nil {
		head.prev = i
	}
	w.slots[i.slot] = i
}

func (w *wheel) unlinkLocked(i *idler) {
	if i.prev != nil {
		i.prev.next = i.next
	} else {
		w.slots[i.slot] = i.next
	}
	if i.next != nil {
		i.next.prev = i.prev
	}
	i.prev, i.next, i.slot = nil, nil, -1
}

// turn looks at the relays whose turn has come and ends the idle ones, without
// the lock: they take their own.
func (w *wheel) turn() {
	for _, i := range w.due() {
		i.owner.endIdle()
	}
}

func (w *wheel) due() (idle []*idler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.count == 0 {
		return nil
	}
	now := w.now()
	for last := now / int64(w.tick); w.at < last; {
		w.at++
		slot := int(w.at % int64(len(w.slots)))
		head := w.slots[slot]
		for i := head; i != nil; {
			next := i.next
			w.unlinkLocked(i)
			if now-i.used.Load() >= int64(w.timeout) {
				idle = append(idle, i)
				w.countDownLocked()
			} else {
				w.placeLocked(i)
			}
			i = next
		}
	}
	if w.count > 0 {
		w.timer.Reset(w.tick)
	}
	return idle
}
