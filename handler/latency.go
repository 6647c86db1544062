package handler

import (
	"math"
	"sync"
	"time"
)

// ConnectBuckets are the upper bounds, in seconds, of the histogram of connect
// times.
var ConnectBuckets = [...]float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// Quantiles cover the latest spans, including the one that has not ended.
const (
	latencySpan  = 30 * time.Second
	latencySpans = 10 // five minutes
)

// Steps of the finer histogram that quantiles are computed from: four per
// doubling, from 16 µs.
const (
	stepsPerOctave = 4
	steps          = 22*stepsPerOctave + 1
	firstStep      = 16 * time.Microsecond
)

// latency counts connect times: since the service started, as a Prometheus
// histogram, and over the last five minutes, for quantiles.
type latency struct {
	mu     sync.Mutex // guards the fields below
	counts [len(ConnectBuckets) + 1]uint64
	sum    time.Duration
	spans  *[latencySpans][steps]uint32 // a ring; nil until the first observation
	latest int64                        // number of the current span, counted from the Unix epoch
}

// Connects is a histogram of connect times. Counts are not cumulative: one for
// each of [ConnectBuckets], and the last one for longer times. Sum is the sum of
// all times. P50 and P99 cover the last five minutes and are at most a fifth too
// high; they are 0 without a connect in that time.
type Connects struct {
	Counts   [len(ConnectBuckets) + 1]uint64
	Sum      time.Duration
	P50, P99 time.Duration
}

// observe counts one connect time.
func (l *latency) observe(took time.Duration, now time.Time) {
	bucket := 0
	for bucket < len(ConnectBuckets) && took.Seconds() > ConnectBuckets[bucket] {
		bucket++
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[bucket]++
	l.sum += took
	if l.spans == nil {
		l.spans = new([latencySpans][steps]uint32)
	}
	l.advanceLocked(now)
	l.spans[l.latest%latencySpans][stepOf(took)]++
}

// advanceLocked makes the span of now the latest one and clears the spans that
// it replaces.
func (l *latency) advanceLocked(now time.Time) {
	span := now.UnixNano() / int64(latencySpan)
	for l.latest = max(l.latest, span-latencySpans); l.latest < span; {
		l.latest++
		l.spans[l.latest%latencySpans] = [steps]uint32{}
	}
}

// stepOf returns the index of the step that holds a connect time.
func stepOf(took time.Duration) int {
	if took <= firstStep {
		return 0
	}
	return min(int(math.Ceil(stepsPerOctave*math.Log2(float64(took)/float64(firstStep)))), steps-1)
}

// read returns the histogram and the quantiles.
func (l *latency) read(now time.Time) Connects {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := Connects{Counts: l.counts, Sum: l.sum}
	if l.spans == nil {
		return c
	}
	l.advanceLocked(now)
	var all [steps]uint64
	var total uint64
	for _, span := range l.spans {
		for i, n := range span {
			all[i] += uint64(n)
			total += uint64(n)
		}
	}
	c.P50, c.P99 = quantile(all[:], total, 50), quantile(all[:], total, 99)
	return c
}

// quantile returns the upper bound of the step that holds the percentile.
func quantile(counts []uint64, total, percent uint64) time.Duration {
	if total == 0 {
		return 0
	}
	rank := (total*percent + 99) / 100
	for i, n := range counts {
		if n >= rank {
			return time.Duration(float64(firstStep) * math.Exp2(float64(i)/stepsPerOctave))
		}
		rank -= n
	}
	return 0
}
