package module

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// keepTotals is how long the totals of a removed service or backend are kept. If
// it comes back later, its counters begin at zero.
const keepTotals = 24 * time.Hour

// ledger adds up the counters of all services, so that no exported counter ever
// falls. The counters of a service or backend begin at zero when it comes back
// after a removal; the totals of the ledger continue. Unnamed services that have
// the same backends share their totals.
type ledger struct {
	// mu guards the fields below. It is held from the reading of a service until
	// that reading is recorded, so that readings are recorded in order.
	mu     sync.Mutex
	last   map[*service]map[series]figures // the counters above zero in the latest reading of each existing service
	totals map[series]*total               // those above zero

	adopted map[string]bool // keys of services whose counters of an earlier process are in totals
	added   bool            // so are the rests of removed ones
}

// total is the sum of a series over all its services.
type total struct {
	figures  figures
	recorded time.Time // when the series was last recorded
}

func newLedger() *ledger {
	return &ledger{last: make(map[*service]map[series]figures), totals: make(map[series]*total), adopted: make(map[string]bool)}
}

// record adds the counters of all services to the totals. It must be called
// before backends leave a queue, because their counters leave with them.
func (l *ledger) record(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	services.Range(func(_, value any) bool {
		l.recordLocked(value.(*service), now, onlyAboveZero)
		return true
	})
}

// close records a service for the last time.
func (l *ledger) close(s *service, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recordLocked(s, now, onlyAboveZero)
	delete(l.last, s)
}

// totalsAndGauges records all services. It returns the totals and the gauges of
// those that the current config has and of removed ones with active relays.
func (l *ledger) totalsAndGauges(now time.Time) (totals map[series]figures, gauges map[series]float64) {
	totals, gauges = make(map[series]figures), make(map[series]float64)
	l.mu.Lock()
	defer l.mu.Unlock()
	services.Range(func(_, value any) bool {
		s := value.(*service)
		r := l.recordLocked(s, now, all)
		if s.current.Load() == nil && s.Idle() {
			return true // its config has not started, and may be rejected
		}
		for key := range r.counters {
			totals[key] = nil
		}
		for key, value := range r.gauges {
			mergeGauge(gauges, key, value)
		}
		return true
	})
	for key := range totals {
		if t := l.totals[key]; t != nil {
			totals[key] = slices.Clone(t.figures)
		} else {
			totals[key] = make(figures, key.metric.figures())
		}
	}
	l.forgetLocked(now)
	return totals, gauges
}

// forgetLocked deletes the totals that were not recorded for keepTotals.
func (l *ledger) forgetLocked(now time.Time) {
	maps.DeleteFunc(l.totals, func(_ series, t *total) bool { return now.Sub(t.recorded) > keepTotals })
}

// recordLocked reads a service and adds the increase of its counters to the
// totals. It keeps nothing for counters at zero, because most counters of most
// services stay there.
func (l *ledger) recordLocked(s *service, now time.Time, which readingOf) reading {
	r := s.readMetrics(now, which)
	before := l.last[s]
	last := make(map[series]figures)
	for key, f := range r.counters {
		t := l.totals[key]
		if t == nil && f.zero() {
			continue
		}
		if t == nil {
			t = &total{figures: make(figures, len(f))}
			l.totals[key] = t
		}
		t.recorded = now
		if !f.zero() {
			t.add(f, before[key])
			last[key] = f
		}
	}
	l.last[s] = last
	return r
}

// add adds the increase from before to f. If a counter is smaller than before,
// or if before is nil, the counter began at zero since, and add adds all of it.
func (t *total) add(f, before figures) {
	for i, count := range f {
		if before != nil && before[i] <= count {
			count -= before[i]
		}
		t.figures[i] += count
	}
}

// mergeGauge adds a gauge. If two services share a series, the gauges of their
// backends become the worse of the two values, and other gauges the sum.
func mergeGauge(gauges map[series]float64, key series, value float64) {
	other, both := gauges[key]
	switch {
	case !both:
	case key.metric == backendUp:
		value = min(value, other)
	case key.metric == backendPosition:
		value = max(value, other)
	default:
		value += other
	}
	gauges[key] = value
}
