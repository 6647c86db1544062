package resolver

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// warmCache returns a Cache with an entry for a.example.
func warmCache(t testing.TB) *Cache {
	c, _ := newCache(t, &fakeDNS{addrs: names("a.example", "192.0.2.1", "2001:db8::1")})
	if _, err := c.Lookup(t.Context(), "a.example", patience); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestHitDoesNotAllocate(t *testing.T) {
	c := warmCache(t)
	ctx := t.Context()
	if n := testing.AllocsPerRun(1000, func() { c.Cached("a.example") }); n != 0 {
		t.Errorf("Cached: %v allocations", n)
	}
	if n := testing.AllocsPerRun(1000, func() { _, _ = c.Lookup(ctx, "a.example", patience) }); n != 0 {
		t.Errorf("Lookup: %v allocations", n)
	}
}

func TestHitTakesNoExclusiveLock(t *testing.T) {
	c := warmCache(t)
	c.Close()    // so that only hits take the lock
	c.mu.RLock() // as a concurrent hit does
	defer c.mu.RUnlock()
	hit := make(chan bool)
	go func() {
		_, ok := c.Cached("a.example")
		_, err := c.Lookup(t.Context(), "a.example", patience)
		hit <- ok && err == nil
	}()
	if !relaytest.Receive(t, "a hit during another hit", hit) {
		t.Error("no answer")
	}
}

func TestUsedIsWrittenRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := warmCache(t)
		e := c.entries["a.example"]
		before := e.used.Load()
		for _, step := range []struct {
			pass  time.Duration
			write bool
		}{{time.Second, false}, {34 * time.Second, false}, {time.Second, true}, {time.Second, false}} {
			time.Sleep(step.pass)
			c.Cached("a.example")
			if now := e.used.Load(); (now != before) != step.write {
				t.Errorf("used changed from %d to %d, want a write: %v", before, now, step.write)
			}
			before = e.used.Load()
		}
	})
}

func BenchmarkCached(b *testing.B) {
	c := warmCache(b)
	b.ReportAllocs()
	for b.Loop() {
		c.Cached("a.example")
	}
}

func BenchmarkCachedParallel(b *testing.B) {
	c := warmCache(b)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c.Cached("a.example")
		}
	})
}

func BenchmarkLookupHit(b *testing.B) {
	c := warmCache(b)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		_, _ = c.Lookup(ctx, "a.example", patience)
	}
}

func BenchmarkLookupHitParallel(b *testing.B) {
	c := warmCache(b)
	ctx := b.Context()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_, _ = c.Lookup(ctx, "a.example", patience)
		}
	})
}
