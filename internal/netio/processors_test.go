package netio

import (
	"runtime"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// fakeBudget is a budget of a process in which used processors are in use.
func fakeBudget(used *int) *ProcessorBudget {
	return &ProcessorBudget{used: func() (int, bool) { return *used, true }}
}

// ample is a budget of a process that does nothing else.
func ample() *ProcessorBudget { return fakeBudget(new(int)) }

// Half of the processors may be kept.
func TestProcessorBudget(t *testing.T) {
	for processors, want := range map[int]int{1: 0, 2: 1, 3: 1, 4: 2, 5: 2} {
		b, now, got := ample(), time.Now(), 0
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(processors))
		for got <= processors && b.take(now) {
			got++
		}
		if got != want {
			t.Errorf("%d of %d processors, want %d", got, processors, want)
		}
		if got > 0 {
			if b.put(); !b.take(now) {
				t.Errorf("none of %d processors after one was given back", processors)
			}
		}
	}
}

// No processor is kept while all are in use, nor for a while after that.
func TestProcessorBudgetOfABusyProcess(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	used := 1
	b, now := fakeBudget(&used), time.Now()
	for i, step := range []struct {
		after time.Duration
		used  int
		want  bool // of spare
	}{
		{0, 1, true},
		{lookEvery - 1, 2, true}, // it has not looked again
		{1, 2, false},
		{lookEvery, 1, false},
		{crowdedPause - lookEvery - 1, 1, false},
		{1, 1, true},
		{lookEvery, 3, false},
		{crowdedPause, 2, false},
		{crowdedPause, 0, true},
	} {
		now, used = now.Add(step.after), step.used
		if got := b.spare(now); got != step.want {
			t.Errorf("step %d: spare %v, want %v", i, got, step.want)
		}
		if got := b.take(now); got != step.want {
			t.Errorf("step %d: take %v, want %v", i, got, step.want)
		} else if got {
			b.put()
		}
	}
}

// Where it is not known what is in use, no processor is kept, nor without a budget.
func TestProcessorBudgetOfAnUnknownProcess(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	b := &ProcessorBudget{used: func() (int, bool) { return 0, false }}
	if b.take(time.Now()) || (*ProcessorBudget)(nil).take(time.Now()) {
		t.Error("a processor may be kept")
	}
}

// Running goroutines count, and those that wait for a processor.
func TestProcessorsInUse(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	used := processorsInUse()
	if n, known := used(); !known || n < 1 {
		t.Fatalf("%d in use, known: %v", n, known)
	}
	stop := make(chan struct{})
	defer close(stop)
	const busy = 5
	for range busy {
		go func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
			}
		}()
	}
	relaytest.Eventually(t, "all of them to be counted", func() bool { n, _ := used(); return n > busy })
}
