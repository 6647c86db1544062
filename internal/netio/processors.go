package netio

import (
	"os"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"time"
)

// ProcessorBudget bounds how many goroutines keep their processor (GOMAXPROCS is the number
// of processors) while they wait in a system call without the scheduler's knowledge. These
// are at most half of the processors, and none while all processors are in use. A process
// has one budget; nil allows none. Any number of goroutines may use it.
type ProcessorBudget struct {
	used func() (n int, quick bool) // returns how many processors are in use or needed, and whether that took little time; set once

	mu      sync.Mutex // guards the fields below; held for no blocking call
	kept    int
	most    int       // that may be kept, as of looked
	looked  time.Time // when used was called last
	looking bool      // used is being called
	pause   time.Time // until then no processor may be kept
}

const (
	// lookEvery is how long a result of used counts.
	lookEvery = time.Millisecond
	// crowdedPause is for how long no processor is kept after all were in use.
	crowdedPause = 50 * time.Millisecond
)

// NewProcessorBudget returns the budget of a process. It is nil if the scheduler does not
// interrupt goroutines (asyncpreemptoff=1 in GODEBUG): to stop the world, it would then
// wait for those that keep their processor.
func NewProcessorBudget() *ProcessorBudget {
	if strings.Contains(os.Getenv("GODEBUG"), "asyncpreemptoff=1") {
		return nil
	}
	return &ProcessorBudget{used: processorsInUse()}
}

// take reports whether the caller may keep its processor while it waits. If so, the caller
// must call put afterwards.
func (b *ProcessorBudget) take(now time.Time) bool {
	if b == nil || !b.spare(now) {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.kept >= b.most {
		return false
	}
	b.kept++
	return true
}

// put ends what take has allowed.
func (b *ProcessorBudget) put() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept--
}

// spare reports whether processors may be kept, also by those that take has allowed to
// keep one. It calls used once in lookEvery.
func (b *ProcessorBudget) spare(now time.Time) bool {
	b.mu.Lock()
	switch {
	case b.looking || now.Before(b.pause):
		b.mu.Unlock()
		return false
	case now.Sub(b.looked) < lookEvery:
		b.mu.Unlock()
		return true
	}
	b.looking = true
	b.mu.Unlock()

	used, quick := b.used()
	processors := runtime.GOMAXPROCS(0)

	b.mu.Lock()
	defer b.mu.Unlock()
	b.looking, b.looked, b.most = false, now, processors/2
	if !quick || used >= processors || b.kept > b.most {
		b.pause = now.Add(crowdedPause)
		return false
	}
	return true
}

// processorsInUse returns a function that returns how many goroutines run or could run,
// or are in system calls that the scheduler knows of. These have a processor at first, and
// need one at their end. Those that never leave theirs, such as the one that waits for
// signals, do not count. The function must not be called concurrently. It is not quick if
// it has waited for another reader of the metrics.
func processorsInUse() func() (n int, quick bool) {
	const slow = 200 * time.Microsecond
	samples := []metrics.Sample{
		{Name: "/sched/goroutines/running:goroutines"},
		{Name: "/sched/goroutines/runnable:goroutines"},
		{Name: "/sched/goroutines/not-in-go:goroutines"}, // also those without a processor
	}
	var never lowest
	return func() (n int, quick bool) {
		began := time.Now()
		metrics.Read(samples)
		for _, s := range samples {
			n += int(s.Value.Uint64())
		}
		n -= never.with(int(samples[2].Value.Uint64()), began)
		return n, time.Since(began) < slow
	}
}

// lowest is the lowest of the values of the last one to two minutes.
type lowest struct {
	since        time.Time
	now, earlier int // since then, and in the minute before
}

// with returns the lowest value, with one more.
func (l *lowest) with(n int, at time.Time) int {
	switch {
	case l.since.IsZero():
		l.since, l.now, l.earlier = at, n, n
	case at.Sub(l.since) >= time.Minute:
		l.since, l.now, l.earlier = at, n, l.now
	}
	l.now = min(l.now, n)
	return min(l.now, l.earlier)
}
