package netio

import (
	"runtime"
	"runtime/metrics"
	"sync"
	"time"
)

// ProcessorBudget bounds how many goroutines keep their processor (GOMAXPROCS is the number
// of processors) while they wait in a system call without the scheduler's knowledge. These
// are at most half of the processors, and none while all processors are in use. A process
// has one budget; nil allows none. Any number of goroutines may use it.
type ProcessorBudget struct {
	used func() (n int, known bool) // returns how many processors are in use or needed; set once

	mu     sync.Mutex // guards the fields below, and calls of used
	kept   int
	looked time.Time // when used was called last
	pause  time.Time // until then no processor may be kept
}

const (
	// lookEvery is how long a result of used counts.
	lookEvery = time.Millisecond
	// crowdedPause is for how long no processor is kept after all were in use.
	crowdedPause = 50 * time.Millisecond
)

// NewProcessorBudget returns the budget of a process.
func NewProcessorBudget() *ProcessorBudget { return &ProcessorBudget{used: processorsInUse()} }

// take reports whether the caller may keep its processor while it waits. If so, the caller
// must call put afterwards.
func (b *ProcessorBudget) take(now time.Time) bool {
	if b == nil {
		return false
	}
	processors := runtime.GOMAXPROCS(0)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.kept >= processors/2 || !b.spareLocked(now, processors) {
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

// spare reports whether the caller of take may still keep its processor.
func (b *ProcessorBudget) spare(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return now.Sub(b.looked) < lookEvery || b.spareLocked(now, runtime.GOMAXPROCS(0))
}

func (b *ProcessorBudget) spareLocked(now time.Time, processors int) bool {
	if now.Before(b.pause) {
		return false
	}
	if now.Sub(b.looked) < lookEvery {
		return true
	}
	b.looked = now
	if n, known := b.used(); known && n < processors {
		return true
	}
	b.pause = now.Add(crowdedPause)
	return false
}

// processorsInUse returns a function that returns how many goroutines run or could run.
// known is false if the runtime has no such metrics, which Go 1.26 introduced.
func processorsInUse() func() (int, bool) {
	samples := []metrics.Sample{{Name: "/sched/goroutines/running:goroutines"}, {Name: "/sched/goroutines/runnable:goroutines"}}
	return func() (n int, known bool) {
		metrics.Read(samples)
		for _, s := range samples {
			if s.Value.Kind() != metrics.KindUint64 {
				return 0, false
			}
			n += int(s.Value.Uint64())
		}
		return n, true
	}
}
