package stream

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// spoke is a relay as a wheel sees it. It keeps when it was ended and when doDeferred
// was called, and may say that bytes have moved just then.
type spoke struct {
	idler
	wheel *Wheel
	busy  bool // ends only at the second look

	mu     sync.Mutex // guards the fields below
	ended  []time.Time
	called []time.Time // doDeferred
}

func newSpoke(w *Wheel) *spoke {
	s := &spoke{wheel: w}
	s.idler = newIdler(s)
	return s
}

func (s *spoke) expireIfIdle() {
	if s.busy {
		s.busy = false
		s.wheel.add(&s.idler)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = append(s.ended, time.Now())
}

func (s *spoke) doDeferred() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.called = append(s.called, time.Now())
}

// counts returns how often doDeferred was called and how often it was ended.
func (s *spoke) counts() (called, ended int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.called), len(s.ended)
}

// wants checks that it was ended once, idle since then, neither early nor more
// than two ticks late.
func (s *spoke) wants(t *testing.T, used time.Time) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ended) != 1 {
		t.Errorf("timeout %v: ended %d times", s.wheel.timeout, len(s.ended))
		return
	}
	late := s.ended[0].Sub(used) - s.wheel.timeout
	if late < 0 || late > 2*s.wheel.tick {
		t.Errorf("timeout %v, tick %v: ended %v late", s.wheel.timeout, s.wheel.tick, late)
	}
}

func TestWheelIsNeverEarlyAndHardlyLate(t *testing.T) {
	for _, timeout := range []time.Duration{
		time.Millisecond, 2 * time.Millisecond, 100 * time.Millisecond, 511 * time.Millisecond, 512 * time.Millisecond,
		time.Second, 10*time.Minute + 1, time.Hour, 24*time.Hour - 1,
	} {
		synctest.Test(t, func(t *testing.T) {
			w := NewWheel(timeout)
			var spokes [200]*spoke
			var added [len(spokes)]time.Time
			for i := range spokes {
				spokes[i], added[i] = newSpoke(w), time.Now()
				w.add(&spokes[i].idler)
				time.Sleep(time.Duration(rand.Int64N(int64(timeout)/50 + 1)))
			}
			time.Sleep(timeout + 3*w.tick)
			synctest.Wait()
			for i, s := range spokes {
				s.wants(t, added[i])
			}
			if w.count != 0 || w.timer.Stop() {
				t.Errorf("%d are in, or the timer runs on", w.count)
			}
		})
	}
}

// Bytes that move put the end off, whenever they do: by a store and no more.
func TestWheelSparesTheUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWheel(time.Minute)
		used, idle := newSpoke(w), newSpoke(w)
		began := time.Now()
		w.add(&used.idler)
		w.add(&idle.idler)
		for range 500 {
			time.Sleep(time.Duration(rand.Int64N(int64(time.Minute))))
			w.touch(&used.idler)
		}
		last := time.Now()
		synctest.Wait()
		idle.wants(t, began)
		if len(used.ended) != 0 {
			t.Fatal("ended in use")
		}
		time.Sleep(time.Minute + 3*w.tick)
		synctest.Wait()
		used.wants(t, last)
	})
}

// Bytes may move between the look and the end.
func TestWheelTakesBackWhatIsNotIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWheel(time.Minute)
		s := newSpoke(w)
		s.busy = true
		w.add(&s.idler)
		time.Sleep(time.Minute + 3*w.tick)
		synctest.Wait()
		if s.busy || len(s.ended) != 0 {
			t.Fatal("not looked at, or ended")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(s.ended) != 1 {
			t.Error("not ended at the second look")
		}
	})
}

// What is taken out is not ended; without a relay no timer runs, and the next
// one finds a wheel that turns.
func TestWheelStopsWhenEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWheel(time.Minute)
		for range 5 {
			out, stays := newSpoke(w), newSpoke(w)
			w.add(&out.idler)
			w.add(&stays.idler)
			w.remove(&out.idler)
			w.remove(&out.idler) // twice does no harm
			added := time.Now()
			time.Sleep(time.Minute + 3*w.tick)
			synctest.Wait()
			stays.wants(t, added)
			w.remove(&stays.idler) // nor after its end
			if len(out.ended) != 0 || w.count != 0 {
				t.Errorf("ended: %v; %d are in", out.ended, w.count)
			}
			w.add(&out.idler)
			w.remove(&out.idler)
			if w.timer.Stop() {
				t.Error("the timer of an empty wheel runs")
			}
			time.Sleep(time.Duration(rand.Int64N(int64(time.Hour))))
		}
	})
}

// Those of one slot leave it in any order without losing the others.
func TestWheelChains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWheel(time.Minute)
		var spokes [32]*spoke
		for i := range spokes {
			spokes[i] = newSpoke(w)
			w.add(&spokes[i].idler)
		}
		added := time.Now()
		for _, i := range rand.Perm(len(spokes))[:len(spokes)/2] {
			w.remove(&spokes[i].idler)
			spokes[i].wheel = nil
		}
		time.Sleep(time.Minute + 3*w.tick)
		synctest.Wait()
		for _, s := range spokes {
			if s.wheel != nil {
				s.wants(t, added)
			} else if len(s.ended) != 0 {
				t.Error("one that was taken out is ended")
			}
		}
	})
}

// Deferred work is done once, one to three ticks after a relay was added, and not for one that
// was removed before. Such relays end like all others.
func TestWheelDoesDeferredWork(t *testing.T) {
	for _, timeout := range []time.Duration{10 * time.Millisecond, time.Second, 5 * time.Minute, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			w := NewWheel(timeout)
			var spokes [100]*spoke
			var added [len(spokes)]time.Time
			for i := range spokes {
				spokes[i], added[i] = newSpoke(w), time.Now()
				if i%3 == 0 {
					w.add(&spokes[i].idler)
				} else {
					w.addDeferring(&spokes[i].idler)
				}
				time.Sleep(time.Duration(rand.Int64N(int64(w.tick))))
				if i%3 == 2 {
					w.remove(&spokes[i].idler)
				}
			}
			time.Sleep(timeout + 3*w.tick)
			synctest.Wait()
			for i, s := range spokes {
				if want := i%3 == 1; len(s.called) > 1 || want != (len(s.called) == 1) {
					t.Errorf("timeout %v: called %d times, want %v", timeout, len(s.called), want)
				}
				if len(s.called) == 1 {
					if age := s.called[0].Sub(added[i]); age < w.tick || age > 3*w.tick {
						t.Errorf("timeout %v, tick %v: called at an age of %v", timeout, w.tick, age)
					}
				}
				if i%3 != 2 {
					s.wants(t, added[i])
				} else if len(s.ended) != 0 {
					t.Error("one that was taken out is ended")
				}
			}
		})
	}
}
