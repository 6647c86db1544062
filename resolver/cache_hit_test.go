package resolver

import (
	"testing"
	"testing/synctest"
	"time"
)

// warm makes a Cache that knows a.example.
func warm(t testing.TB) *Cache {
	c, _ := newCache(t, &fakeDNS{addrs: names("a.example", "192.0.2.1", "2001:db8::1")})
	if _, err := c.Lookup(t.Context(), "a.example", patience); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestHitDoesNotAllocate(t *testing.T) {
	c := warm(t)
	ctx := t.Context()
	for _, host := range []string{"a.example", "a.example."} {
		if n := testing.AllocsPerRun(1000, func() { c.Cached(host) }); n != 0 {
			t.Errorf("Cached(%q): %v allocations", host, n)
		}
		if n := testing.AllocsPerRun(1000, func() { _, _ = c.Lookup(ctx, host, patience) }); n != 0 {
			t.Errorf("Lookup(%q): %v allocations", host, n)
		}
	}
}

func TestHitTakesNoExclusiveLock(t *testing.T) {
	c := warm(t)
	c.Close()    // so that nothing but a hit wants the lock
	c.mu.RLock() // as another hit does
	defer c.mu.RUnlock()
	hit := make(chan bool)
	go func() {
		_, ok := c.Cached("a.example")
		_, err := c.Lookup(t.Context(), "a.example", patience)
		hit <- ok && err == nil
	}()
	select {
	case ok := <-hit:
		if !ok {
			t.Error("no answer")
		}
	case <-time.After(10 * time.Second): // only if it hangs
		t.Error("a hit waits for another one")
	}
}

func TestUsedIsWrittenRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := warm(t)
		e := c.entries["a.example"]
		before := e.used.Load()
		for _, step := range []struct {
			pass  time.Duration
			write bool
		}{{time.Second, false}, {34 * time.Second, false}, {time.Second, true}, {time.Second, false}} {
			time.Sleep(step.pass)
			c.Cached("a.example")
			if now := e.used.Load(); (now != before) != step.write {
				t.Errorf("mark went from %d to %d, want a write: %v", before, now, step.write)
			}
			before = e.used.Load()
		}
	})
}

func BenchmarkCached(b *testing.B) {
	c := warm(b)
	b.ReportAllocs()
	for b.Loop() {
		c.Cached("a.example")
	}
}

func BenchmarkCachedParallel(b *testing.B) {
	c := warm(b)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c.Cached("a.example")
		}
	})
}

func BenchmarkLookupHit(b *testing.B) {
	c := warm(b)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		_, _ = c.Lookup(ctx, "a.example", patience)
	}
}

func BenchmarkLookupHitParallel(b *testing.B) {
	c := warm(b)
	ctx := b.Context()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_, _ = c.Lookup(ctx, "a.example", patience)
		}
	})
}
