package handler

import (
	"testing"
	"time"
)

// isQuantile reports whether got is want or at most a fifth more.
func isQuantile(got, want time.Duration) bool { return got >= want && got <= want*6/5 }

func TestQuantiles(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for _, test := range []struct {
		observed func(i int) time.Duration // the i-th of a hundred times
		p50, p99 time.Duration
	}{
		{func(int) time.Duration { return 3 * time.Millisecond }, 3 * time.Millisecond, 3 * time.Millisecond},
		{func(i int) time.Duration { return time.Duration(i+1) * time.Millisecond }, 50 * time.Millisecond, 99 * time.Millisecond},
		{func(i int) time.Duration { return time.Millisecond + time.Duration(i/98)*4*time.Second }, time.Millisecond, 4001 * time.Millisecond},
	} {
		var l latency
		for i := range 100 {
			l.observe(test.observed(i), now)
		}
		if c := l.read(now); !isQuantile(c.P50, test.p50) || !isQuantile(c.P99, test.p99) {
			t.Errorf("p50 %v, p99 %v, want %v and %v", c.P50, c.P99, test.p50, test.p99)
		}
	}
}

// Quantiles cover five minutes, the histogram covers all time.
func TestQuantilesCoverFiveMinutes(t *testing.T) {
	began := time.Unix(1_000_000, 0).Truncate(latencySpan)
	var l latency
	l.observe(time.Second, began)
	for _, test := range []struct {
		after time.Duration
		p50   time.Duration
	}{
		{4*time.Minute + 29*time.Second, time.Second},
		{5 * time.Minute, 0},
		{time.Minute, 0}, // the clock was set back: old spans stay cleared
	} {
		if c := l.read(began.Add(test.after)); test.p50 == 0 && c.P50 != 0 || test.p50 > 0 && !isQuantile(c.P50, test.p50) || c.Sum != time.Second {
			t.Errorf("after %v: p50 %v, want %v; sum %v", test.after, c.P50, test.p50, c.Sum)
		}
	}
	l.observe(time.Millisecond, began.Add(time.Hour))
	if c := l.read(began.Add(time.Hour)); !isQuantile(c.P50, time.Millisecond) || !isQuantile(c.P99, time.Millisecond) {
		t.Errorf("an hour later: p50 %v, p99 %v", c.P50, c.P99)
	}
}

// A bucket of the histogram includes its bound, as in Prometheus.
func TestConnectBuckets(t *testing.T) {
	var l latency
	now := time.Now()
	for _, took := range []time.Duration{0, 500 * time.Microsecond, 501 * time.Microsecond, 10 * time.Second, 11 * time.Second} {
		l.observe(took, now)
	}
	c := l.read(now)
	if last := len(ConnectBuckets); c.Counts[0] != 2 || c.Counts[1] != 1 || c.Counts[last-1] != 1 || c.Counts[last] != 1 {
		t.Errorf("counts %v", c.Counts)
	}
}
