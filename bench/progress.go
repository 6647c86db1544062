package main

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// progress counts the units of work that a load has done, and how long they took.
type progress struct {
	units atomic.Int64

	mu   sync.Mutex
	took *hdrhistogram.Histogram // in microseconds; guarded by mu; nil until the first unit
}

// done counts a unit of work that began at a time.
func (p *progress) done(began time.Time) {
	p.timed(time.Since(began))
	p.units.Add(1)
}

// bytes returns a function that counts the bytes of one stream, as units of work,
// and records how long each MiB took.
func (p *progress) bytes() func(n int) {
	began, soFar := time.Now(), 0
	return func(n int) {
		p.units.Add(int64(n))
		if soFar += n; soFar >= 1<<20 {
			now := time.Now()
			p.timed(now.Sub(began))
			began, soFar = now, soFar%(1<<20)
		}
	}
}

// timed records a latency. Latencies above the longest one count as the longest.
func (p *progress) timed(took time.Duration) {
	const longest = time.Minute
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.took == nil {
		const digits = 3
		p.took = hdrhistogram.New(1, longest.Microseconds(), digits)
	}
	_ = p.took.RecordValue(min(max(took, time.Microsecond), longest).Microseconds()) // in range, so it cannot fail
}

// forget drops the latencies recorded so far, such as those of a warm-up.
func (p *progress) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.took != nil {
		p.took.Reset()
	}
}

// quantiles are the latencies that rows report, by key.
var quantiles = map[string]float64{"p50": 50, "p90": 90, "p99": 99, "p99.9": 99.9}

// addTo adds the quantiles to v, in milliseconds. It adds none if there are no
// latencies.
func (p *progress) addTo(v values) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.took == nil || p.took.TotalCount() == 0 {
		return
	}
	for key, percent := range quantiles {
		v[key] = float64(p.took.ValueAtQuantile(percent)) / 1000
	}
}
