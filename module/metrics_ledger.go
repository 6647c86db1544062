package module

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// keepTotals is how long the totals of a service or backend are kept that is no
// longer there. One that comes back later begins at zero.
const keepTotals = 24 * time.Hour

// ledger adds up what services count, so that what is shown never falls. A
// service or a backend that was removed begins at zero when it comes back; the
// totals here go on. Services without names of their own may also share one.
type ledger struct {
	// mu guards what follows. It is held from the reading of a service until
	// that is booked, so that no reading overtakes another.
	mu     sync.Mutex
	last   map[*service]map[series]figures // the latest reading of each that is there
	totals map[series]*total
}

// total is what a series has come to.
type total struct {
	figures figures
	booked  time.Time // the last time
}

func newLedger() *ledger {
	return &ledger{last: make(map[*service]map[series]figures), totals: make(map[series]*total)}
}

// book books what all services have counted. It is time for that when somebody
// looks, and before backends leave a queue, who take their counts along.
func (l *ledger) book(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	services.Range(func(_, value any) bool {
		l.bookLocked(value.(*service), now)
		return true
	})
}

// close books a service for the last time.
func (l *ledger) close(s *service, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bookLocked(s, now)
	delete(l.last, s)
}

// balance books what all services have counted, and gives the totals and the
// gauges of those that a config has or that still have relays at work.
func (l *ledger) balance(now time.Time) (counters map[series]figures, gauges map[series]float64) {
	counters, gauges = make(map[series]figures), make(map[series]float64)
	l.mu.Lock()
	defer l.mu.Unlock()
	services.Range(func(_, value any) bool {
		s := value.(*service)
		r := l.bookLocked(s, now)
		if s.current.Load() == nil && !s.busy() {
			return true // its config does not run yet, or never will
		}
		for key := range r.counters {
			counters[key] = nil
		}
		for key, value := range r.gauges {
			merge(gauges, key, value)
		}
		return true
	})
	for key := range counters {
		counters[key] = slices.Clone(l.totals[key].figures)
	}
	l.forgetLocked(now)
	return counters, gauges
}

// forgetLocked drops the totals of what is long gone.
func (l *ledger) forgetLocked(now time.Time) {
	maps.DeleteFunc(l.totals, func(_ series, t *total) bool { return now.Sub(t.booked) > keepTotals })
}

func (l *ledger) bookLocked(s *service, now time.Time) reading {
	r := s.read(now)
	before := l.last[s]
	for key, f := range r.counters {
		t := l.totals[key]
		if t == nil {
			t = &total{figures: make(figures, len(f))}
			l.totals[key] = t
		}
		t.add(f, before[key])
		t.booked = now
	}
	l.last[s] = r.counters
	return r
}

// add adds what has been counted since before: all of it, if the counter was
// not there then or has begun anew.
func (t *total) add(f, before figures) {
	for i, count := range f {
		if before != nil && before[i] <= count {
			count -= before[i]
		}
		t.figures[i] += count
	}
}

// merge adds a gauge. Of two backends in queues of one name the worse is shown.
func merge(gauges map[series]float64, key series, value float64) {
	other, both := gauges[key]
	switch {
	case !both:
	case key.of == backendUp:
		value = min(value, other)
	case key.of == backendPosition:
		value = max(value, other)
	default:
		value += other
	}
	gauges[key] = value
}
