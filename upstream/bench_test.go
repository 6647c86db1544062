package upstream

import (
	"sync"
	"testing"
	"time"
)

// In good times a client costs the pool no memory.
func TestGoodTimesAllocateNothing(t *testing.T) {
	p := NewPool(addresses("a b c"), time.Minute, start)
	now := start.Add(time.Hour)
	for _, n := range []Network{TCP, UDP} {
		allocs := testing.AllocsPerRun(1000, func() {
			walk := p.Walk(n)
			a, ok := walk.Next(now)
			if !ok || a.Backend.Text != "a" || isClosed(a.Demoted()) {
				t.Fatal("not offered a")
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

// Nor does it wait for anybody: all that a client in good times calls returns
// while the lock is held, as it would be by a hundred that fail elsewhere.
// Were one of these to lock, the test would never end.
func TestGoodTimesTakeNoLock(t *testing.T) {
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

	// Next takes none in bad times either: past exhausted ones to the cooling.
	walk.Exhaust(b)
	walk.Exhaust(p.backends()[1])
	if a, ok = walk.Next(start); !ok || !a.Backend.Down(TCP) {
		t.Fatalf("next is %v, %v", a.Backend, ok)
	}
	if _, ok = walk.Again(a, start); !ok {
		t.Fatal("no second attempt")
	}
	probe := p.Probe(b, TCP)
	if a, ok = probe.Next(start); !ok || a.Backend != b {
		t.Fatalf("the probe's is %v, %v", a.Backend, ok)
	}
	if order := p.Order(); order[0] != "c" {
		t.Fatalf("order %v", order)
	}
}

// Many who succeed at the same moment get into each other's way, but wait for
// no lock even so. A hundred thousand times each, or they would not meet.
func TestSuccessesTogetherTakeNoLock(t *testing.T) {
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

// demotedPool is a pool of some backends, named from a, whose first ones were
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

// Demotion puts the cooling behind those that stand; in front of them they
// come by what befalls the others, here by UDP's strikes.
func BenchmarkNextPastCooling(b *testing.B) {
	p := demotedPool(b, 7, 8)
	probe := p.Probe(p.Backend("h"), UDP)
	a, _ := probe.Next(start)
	probe.Failed(a, start, errRefused)
	a, _ = probe.Again(a, start)
	probe.Failed(a, start, errRefused)
	if order := p.Order(); order[7] != "h" {
		b.Fatalf("order %v", order)
	}
	benchmarkNext(b, p)
}

// Nothing else is left: all are looked at, and the longest-cooled is taken.
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
