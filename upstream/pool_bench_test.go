package upstream

import (
	"sync"
	"testing"
	"time"
)

// A client that is served at its first attempt allocates nothing.
func TestSuccessAllocatesNothing(t *testing.T) {
	p := NewPool(addresses("a b c"), time.Minute, start)
	now := start.Add(time.Hour)
	for _, n := range []Network{TCP, UDP} {
		allocs := testing.AllocsPerRun(1000, func() {
			walk := p.Walk(n)
			a, ok := walk.Next(now)
			if !ok || a.Backend.Text != "a" || isClosed(a.Demoted()) {
				t.Fatal("Next did not return a")
			}
			walk.Succeeded(a, now)
			a = walk.Resume(a.Backend, now)
			walk.Succeeded(a, now)
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations for a client", n, allocs)
		}
	}
}

// A client that is served at its first attempt takes no lock. The test holds the
// lock, so it would hang if one of the calls took it.
func TestSuccessTakesNoLock(t *testing.T) {
	p := demotedPool(t, 2, 4)
	b := p.Backend("c")
	p.mu.Lock()
	defer p.mu.Unlock()
	walk := p.Walk(TCP)
	a, ok := walk.Next(start)
	if !ok || a.Backend != b {
		t.Fatalf("next is %v, %v", a.Backend, ok)
	}
	walk.Succeeded(a, start)
	walk.Succeeded(walk.Resume(b, start), start)
	b.Prefer(TCP, b.IP)
	b.Preferred(TCP)

	// Next takes no lock either when it skips exhausted and cooling backends.
	walk.Exhaust(b)
	walk.Exhaust(p.backends()[1])
	if a, ok = walk.Next(start); !ok || !a.Backend.Down(TCP) {
		t.Fatalf("next is %v, %v", a.Backend, ok)
	}
	if _, ok = walk.Again(a, start); !ok {
		t.Fatal("no second attempt")
	}
	probe := p.Probe(b, TCP, Listens)
	if a, ok = probe.Next(start); !ok || a.Backend != b {
		t.Fatalf("the probe got %v, %v", a.Backend, ok)
	}
	if order := p.Order(); order[0] != "c" {
		t.Fatalf("order %v", order)
	}
}

// Concurrent successes contend for the same word, but take no lock. Each client
// repeats so often that the successes do collide.
func TestConcurrentSuccessesTakeNoLock(t *testing.T) {
	const clients, times = 4, 100_000
	p := NewPool(addresses("a"), 0, start)
	p.mu.Lock()
	var done sync.WaitGroup
	for range clients {
		done.Go(func() {
			for range times {
				walk := p.Walk(TCP)
				a, _ := walk.Next(start)
				walk.Succeeded(a, start)
			}
		})
	}
	done.Wait()
	p.mu.Unlock()
	if got := p.Snapshot(start)[0].Networks[TCP].Succeeded; got != clients*times {
		t.Errorf("%d successes counted, want %d", got, clients*times)
	}
}

// demotedPool returns a pool of size backends, named from a. The first ones were
// demoted at the start and cool for an hour.
func demotedPool(tb testing.TB, demoted, size int) *Pool {
	tb.Helper()
	p := NewPool(addresses("a b c d e f g h"[:2*size-1]), time.Hour, start)
	for range demoted {
		walk := p.Walk(TCP)
		a, _ := walk.Next(start)
		walk.Failed(a, start, errRefused)
		a, _ = walk.Again(a, start)
		if _, change := walk.Failed(a, start, errRefused); !change.Demoted {
			tb.Fatal("not demoted")
		}
	}
	return p
}

func benchmarkNext(b *testing.B, p *Pool) {
	b.ReportAllocs()
	for b.Loop() {
		walk := p.Walk(TCP)
		if _, ok := walk.Next(start); !ok {
			b.Fatal("refused")
		}
	}
}

func BenchmarkNext(b *testing.B) { benchmarkNext(b, demotedPool(b, 0, 4)) }

func BenchmarkNextParallel(b *testing.B) {
	p := demotedPool(b, 0, 4)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			walk := p.Walk(TCP)
			if _, ok := walk.Next(start); !ok {
				b.Error("refused")
				return
			}
		}
	})
}

// A demotion puts a cooling backend behind the others. Here strikes on UDP then move
// h behind the cooling backends, so that Next must pass seven of them.
func BenchmarkNextPastCooling(b *testing.B) {
	p := demotedPool(b, 7, 8)
	probe := p.Probe(p.Backend("h"), UDP, Listens)
	a, _ := probe.Next(start)
	probe.Failed(a, start, errRefused)
	a, _ = probe.Again(a, start)
	probe.Failed(a, start, errRefused)
	if order := p.Order(); order[7] != "h" {
		b.Fatalf("order %v", order)
	}
	benchmarkNext(b, p)
}

// If all backends are cooling, Next looks at all of them.
func BenchmarkNextAllCooling(b *testing.B) { benchmarkNext(b, demotedPool(b, 8, 8)) }

func BenchmarkSucceeded(b *testing.B) {
	p := demotedPool(b, 0, 4)
	walk := p.Walk(TCP)
	a, _ := walk.Next(start)
	b.ReportAllocs()
	for b.Loop() {
		walk.Succeeded(a, start)
	}
}

func BenchmarkSucceededParallel(b *testing.B) {
	p := demotedPool(b, 0, 4)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		walk := p.Walk(TCP)
		a, _ := walk.Next(start)
		for pb.Next() {
			walk.Succeeded(a, start)
		}
	})
}
