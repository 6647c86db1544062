package page

import (
	"time"

	"github.com/async-relay/caddy-relay/module/api"
)

// The history of a service: ten minutes in steps of ten seconds.
const (
	sampleEvery = 10 * time.Second
	samples     = 60
)

// sample counts what happened in one step.
type sample struct {
	connections, bytes, failures, refused uint64
}

// counts are the counters of a service at one moment.
type counts struct {
	at time.Time
	sample
	up, down uint64
}

func countsOf(s *api.Service, now time.Time) counts {
	c := counts{at: now, up: s.Totals.BytesUp, down: s.Totals.BytesDown}
	c.connections, c.failures, c.bytes = s.Totals.Connections, s.Totals.Failures, c.up+c.down
	for _, n := range s.Refused {
		c.refused += n
	}
	return c
}

// history is what a service did in the last ten minutes. It is guarded by its hub.
type history struct {
	steps [samples]sample // a ring
	next  int             // index of the oldest step, which the next one replaces
	last  counts          // at the end of the latest step

	// Rates are measured from the older of two readings, which are rateWindow
	// apart while the service is read more often than that.
	older, newer counts
}

// rateWindow is the least time that a rate covers, and half of the most.
const rateWindow = 3 * time.Second

func newHistory(now counts) *history { return &history{last: now, older: now, newer: now} }

// step ends a step of the history.
func (h *history) step(now counts) {
	h.steps[h.next] = now.since(h.last)
	h.next = (h.next + 1) % samples
	h.last = now
	h.read(now)
}

// read remembers a reading, for rates.
func (h *history) read(now counts) {
	if now.at.Sub(h.newer.at) >= rateWindow {
		h.older, h.newer = h.newer, now
	}
}

// since returns what was counted after an earlier reading.
func (c counts) since(earlier counts) sample {
	return sample{
		connections: c.connections - min(earlier.connections, c.connections),
		bytes:       c.bytes - min(earlier.bytes, c.bytes),
		failures:    c.failures - min(earlier.failures, c.failures),
		refused:     c.refused - min(earlier.refused, c.refused),
	}
}

// rates returns what the service does per second.
func (h *history) rates(now counts) rates {
	span := now.at.Sub(h.older.at).Seconds()
	if span < 0.1 {
		return rates{}
	}
	per := func(before, after uint64) float64 {
		return float64(int64(float64(after-min(before, after))/span*10+.5)) / 10
	}
	return rates{
		Connections: per(h.older.connections, now.connections),
		Up:          per(h.older.up, now.up),
		Down:        per(h.older.down, now.down),
		Failures:    per(h.older.failures, now.failures),
	}
}

// refusedLately returns how many clients were refused in the last minute or so.
func (h *history) refusedLately(now counts) (n uint64) {
	n = now.since(h.last).refused
	for i := range time.Minute / sampleEvery {
		n += h.steps[(h.next+samples-1-int(i))%samples].refused
	}
	return n
}

// series returns one figure of all steps, the oldest first.
func (h *history) series(figure func(sample) uint64) []uint64 {
	list := make([]uint64, samples)
	for i := range list {
		list[i] = figure(h.steps[(h.next+i)%samples])
	}
	return list
}

// view returns the history for the page, or nil if nothing happened.
func (h *history) view() *historyView {
	v := historyView{
		Connections: h.series(func(s sample) uint64 { return s.connections }),
		Bytes:       h.series(func(s sample) uint64 { return s.bytes }),
		Failures:    h.series(func(s sample) uint64 { return s.failures }),
	}
	for i := range samples {
		if v.Connections[i]+v.Bytes[i]+v.Failures[i] > 0 {
			return &v
		}
	}
	return nil
}
