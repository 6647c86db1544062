package stream

import (
	"sync"
	"sync/atomic"
	"time"
)

// wheelSlots is how many ticks a timeout is divided into. A relay ends at most one
// tick after its timeout.
const wheelSlots = 256

// minTick bounds the ticks of short timeouts.
const minTick = 2 * time.Millisecond

// A turn of the wheel is late if it runs lateTurn or more after its time: the
// process was stopped, or the system overloaded. Bytes may have arrived in the
// meantime that no relay could read. A late turn therefore ends no relay, and the
// next turn follows after catchUp.
const (
	lateTurn = 100 * time.Millisecond
	catchUp  = time.Second
)

// Wheel ends relays that were idle for a timeout, which all of them share. A relay
// is checked when its timeout would expire had it been idle all the time, so that
// moving bytes costs one atomic store. A timer runs while the wheel has relays.
//
// A relay may defer work that short relays do not need. The wheel calls its doDeferred one to
// three ticks after it was added, or later while turns are late.
type Wheel struct {
	timeout time.Duration // set once, as are tick and epoch
	tick    time.Duration
	epoch   time.Time

	mu    sync.Mutex              // guards the fields below
	slots *[wheelSlots + 2]*idler // nil before the first relay: many services have no client
	at    int64                   // the latest tick that was processed
	count int                     // relays in slots
	timer *time.Timer
	next  int64 // when the timer fires, in nanoseconds after epoch
}

// idler is a relay's entry in a Wheel.
type idler struct {
	used  atomic.Int64 // when bytes last moved, in nanoseconds after the wheel's epoch
	owner wheelOwner

	prev, next *idler // guarded by Wheel.mu, as are slot and defers
	slot       int32  // noSlot: in no slot
	defers     bool   // doDeferred will be called
}

// wheelOwner is a relay in a Wheel.
type wheelOwner interface {
	// expireIfIdle ends the relay if it is still idle, or puts it back.
	expireIfIdle()
	// doDeferred does what the relay has deferred. The relay may have ended meanwhile.
	doDeferred()
}

const noSlot = -1

func newIdler(owner wheelOwner) idler { return idler{owner: owner, slot: noSlot} }

// NewWheel returns a wheel for relays with this idle timeout. It runs no
// goroutine while it has no relays.
func NewWheel(timeout time.Duration) *Wheel {
	return &Wheel{timeout: timeout, tick: max(timeout/wheelSlots, minTick), epoch: time.Now()}
}

func (w *Wheel) now() int64 { return int64(time.Since(w.epoch)) }

// touch records that bytes have moved.
func (w *Wheel) touch(i *idler) { i.used.Store(w.now()) }

// isIdle reports whether no bytes have moved for the timeout.
func (w *Wheel) isIdle(i *idler) bool { return w.now()-i.used.Load() >= int64(w.timeout) }

// add puts a relay into the wheel.
func (w *Wheel) add(i *idler) {
	w.touch(i)
	w.putBack(i)
}

// addDeferring is add for a relay that has deferred work.
//
// Precondition: the relay was in no wheel before, so defers needs no lock.
func (w *Wheel) addDeferring(i *idler) {
	i.defers = true
	w.add(i)
}

// putBack puts a relay into the wheel again that due has removed and that has
// moved bytes since.
func (w *Wheel) putBack(i *idler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.slots == nil {
		w.slots = new([wheelSlots + 2]*idler)
	}
	if w.count == 0 {
		now := w.now()
		w.at = now / int64(w.tick)
		w.turnAfterLocked(now, w.tick)
	}
	w.count++
	w.placeLocked(i)
}

// remove removes a relay from the wheel, if it is there.
func (w *Wheel) remove(i *idler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i.slot == noSlot {
		return
	}
	w.unlinkLocked(i)
	w.countDownLocked()
}

// turnAfterLocked makes the timer call turn after a wait.
func (w *Wheel) turnAfterLocked(now int64, wait time.Duration) {
	w.next = now + int64(wait)
	if w.timer == nil {
		w.timer = time.AfterFunc(wait, w.turn)
		return
	}
	w.timer.Reset(wait)
}

func (w *Wheel) countDownLocked() {
	if w.count--; w.count == 0 {
		w.timer.Stop()
	}
}

// placeLocked puts a relay into the slot of the tick at which its timeout
// expires, or into the last slot if that is further away. A relay with deferred work goes
// into the slot of that work if it is earlier.
func (w *Wheel) placeLocked(i *idler) {
	used := i.used.Load()
	due := (used+int64(w.timeout))/int64(w.tick) + 1
	if i.defers {
		due = min(due, used/int64(w.tick)+2)
	}
	due = min(max(due, w.at+1), w.at+wheelSlots+1)
	i.slot = int32(due % int64(len(w.slots)))
	head := w.slots[i.slot]
	i.prev, i.next = nil, head
	if head != nil {
		head.prev = i
	}
	w.slots[i.slot] = i
}

func (w *Wheel) unlinkLocked(i *idler) {
	if i.prev != nil {
		i.prev.next = i.next
	} else {
		w.slots[i.slot] = i.next
	}
	if i.next != nil {
		i.next.prev = i.prev
	}
	i.prev, i.next, i.slot = nil, nil, noSlot
}

// turn is called by the timer. It calls the owners without the lock, because they
// take their own locks.
func (w *Wheel) turn() {
	idle, deferring := w.due()
	for _, i := range idle {
		i.owner.expireIfIdle()
	}
	for _, i := range deferring {
		i.owner.doDeferred()
	}
}

// due removes the idle relays from the slots of the ticks that have passed and returns
// them. Relays that were not idle move to a later slot; those with deferred work are
// returned too. A late turn moves no relays and returns only those with deferred work.
func (w *Wheel) due() (idle, deferring []*idler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.count == 0 {
		return nil, nil
	}
	now := w.now()
	last := now / int64(w.tick)
	if now-w.next >= int64(lateTurn) {
		w.turnAfterLocked(now, catchUp)
		for at := w.at + 1; at <= min(last, w.at+int64(len(w.slots))); at++ {
			for i := w.slots[at%int64(len(w.slots))]; i != nil; i = i.next {
				deferring = i.takeDeferred(deferring)
			}
		}
		return nil, deferring
	}
	for w.at < last {
		w.at++
		slot := int(w.at % int64(len(w.slots)))
		for i := w.slots[slot]; i != nil; {
			next := i.next
			w.unlinkLocked(i)
			if now-i.used.Load() >= int64(w.timeout) {
				idle = append(idle, i)
				w.countDownLocked()
			} else {
				deferring = i.takeDeferred(deferring)
				w.placeLocked(i)
			}
			i = next
		}
	}
	if w.count > 0 {
		w.turnAfterLocked(now, w.tick)
	}
	return idle, deferring
}

// takeDeferred adds a relay to those whose deferred work is due, if it has any. The caller
// holds the lock of the wheel.
func (i *idler) takeDeferred(deferring []*idler) []*idler {
	if i.defers {
		i.defers = false
		deferring = append(deferring, i)
	}
	return deferring
}
