package stream

import (
	"testing"
	"testing/synctest"
	"time"
)

// turnLate turns a wheel as if it was late.
func turnLate(w *Wheel) {
	w.mu.Lock()
	w.next = w.now() - int64(lateTurn)
	w.mu.Unlock()
	w.turn()
}

// stopTurning makes a wheel turn only when the test does it.
func stopTurning(w *Wheel) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
}

// A turn that comes late, as after a process was stopped, ends no relay. Relays
// whose bytes are moved before the next turn stay; the idle ones end then.
func TestLateTurnOfTheWheel(t *testing.T) {
	for _, timeout := range []time.Duration{10 * time.Millisecond, time.Second, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			w := NewWheel(timeout)
			used, idle := newSpoke(w), newSpoke(w)
			w.add(&used.idler)
			w.add(&idle.idler)
			time.Sleep(timeout + w.tick/2) // between two turns, before the one that ends the relays
			turnLate(w)
			time.Sleep(catchUp - time.Millisecond)
			synctest.Wait()
			if len(used.ended)+len(idle.ended) != 0 {
				t.Fatalf("timeout %v: a late turn ended a relay", timeout)
			}
			last := time.Now()
			w.touch(&used.idler)
			time.Sleep(time.Millisecond + w.tick)
			synctest.Wait()
			if len(idle.ended) != 1 {
				t.Errorf("timeout %v: the idle relay was ended %d times, want 1", timeout, len(idle.ended))
			}
			time.Sleep(timeout + 2*w.tick)
			synctest.Wait()
			used.wants(t, last)
		})
	}
}

// A late turn does deferred work too: all turns may be late for a while.
func TestLateTurnDoesDeferredWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWheel(time.Minute)
		s, other := newSpoke(w), newSpoke(w)
		w.addDeferring(&s.idler)
		w.add(&other.idler)
		added := time.Now()
		stopTurning(w)
		for range 3 {
			time.Sleep(3 * w.tick)
			turnLate(w)
		}
		s.mu.Lock()
		if len(s.called) != 1 || time.Since(s.called[0]) < 5*w.tick {
			t.Errorf("called at %v, want once, in the first turn", s.called)
		}
		s.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		s.wants(t, added)
		other.wants(t, added)
		called, _ := s.counts()
		if others, _ := other.counts(); called != 1 || others != 0 {
			t.Errorf("called %d times, the other one %d times", called, others)
		}
	})
}

// A relay that is put back keeps its deferred work, and a turn that is late by more than all
// slots does it.
func TestDeferredWorkIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWheel(10 * time.Millisecond)
		s := newSpoke(w)
		w.addDeferring(&s.idler)
		w.remove(&s.idler) // as due does with an idle relay
		w.touch(&s.idler)
		w.putBack(&s.idler)
		stopTurning(w)
		time.Sleep(3 * wheelSlots * w.tick)
		w.turn()
		if called, ended := s.counts(); called != 1 || ended != 0 {
			t.Errorf("called %d times, ended %d times, want 1, 0", called, ended)
		}
		time.Sleep(2 * catchUp)
		synctest.Wait()
		if called, ended := s.counts(); called != 1 || ended != 1 {
			t.Errorf("called %d times, ended %d times, want 1, 1", called, ended)
		}
	})
}
