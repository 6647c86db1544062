package netio

import (
	"runtime"
	"testing"
	"time"
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

// No processor is kept if it takes long to find out how many are in use, nor without a
// budget.
func TestProcessorBudgetOfASlowProcess(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	b := &ProcessorBudget{used: func() (int, bool) { return 0, false }}
	if b.take(time.Now()) || (*ProcessorBudget)(nil).take(time.Now()) {
		t.Error("a processor may be kept")
	}
}

// While one goroutine finds out how many are in use, the others do not wait for it.
func TestProcessorBudgetWhileInUseIsRead(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8))
	var b *ProcessorBudget
	now, read := time.Now(), 0
	b = &ProcessorBudget{used: func() (int, bool) {
		if read++; read == 1 && b.take(now) {
			t.Error("a processor may be kept")
		}
		return 0, true
	}}
	if !b.take(now) || read != 1 {
		t.Errorf("none may be kept, after %d reads", read)
	}
}

// Fewer processors than before are enough for fewer kept ones.
func TestProcessorBudgetWithFewerProcessors(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	b, now := ample(), time.Now()
	for range 2 {
		if !b.take(now) {
			t.Fatal("two of four may be kept")
		}
	}
	runtime.GOMAXPROCS(2)
	if now = now.Add(lookEvery); b.spare(now) {
		t.Error("two of two processors may be kept")
	}
	b.put()
	if now = now.Add(crowdedPause); !b.spare(now) {
		t.Error("one of two may not be kept")
	}
}

// Without signals, the world could not be stopped while a processor is kept.
func TestNoProcessorBudgetWithoutPreemption(t *testing.T) {
	if NewProcessorBudget() == nil {
		t.Error("no budget")
	}
	t.Setenv("GODEBUG", "x=1,asyncpreemptoff=1")
	if NewProcessorBudget() != nil {
		t.Error("a budget")
	}
}

// The lowest value counts for at least a minute, and at most two.
func TestLowest(t *testing.T) {
	var l lowest
	now := time.Now()
	for i, step := range []struct {
		after   time.Duration
		n, want int
	}{
		{0, 5, 5}, {time.Second, 3, 3}, {time.Second, 4, 3}, {57 * time.Second, 4, 3},
		{time.Second, 4, 3}, {59 * time.Second, 4, 3},
		{time.Second, 6, 4}, {time.Second, 2, 2}, {time.Minute, 7, 2}, {time.Minute, 7, 7},
	} {
		now = now.Add(step.after)
		if got := l.with(step.n, now); got != step.want {
			t.Errorf("step %d: %d, want %d", i, got, step.want)
		}
	}
}
