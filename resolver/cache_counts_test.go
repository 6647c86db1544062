package resolver

import (
	"testing"
	"testing/synctest"
	"time"
)

// want fails the test unless the counters have these values.
func (c *Counts) want(t *testing.T, ok, stale, failed uint64) {
	t.Helper()
	if c.OK.Load() != ok || c.Stale.Load() != stale || c.Failed.Load() != failed {
		t.Errorf("counted %d ok, %d stale, %d failed, want %d, %d, %d", c.OK.Load(), c.Stale.Load(), c.Failed.Load(), ok, stale, failed)
	}
}

func TestCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{addrs: names("a.example", "192.0.2.1")}
		var counts Counts
		for range 2 { // caches share the counters
			c := New(Config{Lookup: dns.lookup, Counts: &counts})
			defer c.Close()
			lookup(t, c, "a.example", false, "192.0.2.1")
			lookup(t, c, "a.example", false, "192.0.2.1") // from memory
			_, _ = c.Lookup(t.Context(), "192.0.2.7", patience)
		}
		counts.want(t, 2, 0, 0)

		c := New(Config{Lookup: dns.lookup, Counts: &counts})
		lookup(t, c, "a.example", false, "192.0.2.1")
		dns.set(func(d *fakeDNS) { d.err = errDown })
		c.Flush("")
		lookup(t, c, "a.example", true, "192.0.2.1")
		lookup(t, c, "a.example", true, "192.0.2.1") // the failure is remembered
		for range 2 {
			if _, err := c.Lookup(t.Context(), "b.example", patience); err == nil {
				t.Error("b.example was resolved")
			}
		}
		counts.want(t, 3, 1, 1)

		dns.set(func(d *fakeDNS) { d.hangs = true })
		go func() { _, _ = c.Lookup(t.Context(), "c.example", patience) }()
		synctest.Wait()
		c.Close() // ends a query, which is not counted
		counts.want(t, 3, 1, 1)
	})
}

func TestCountsIncludeBackgroundQueries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{addrs: names("a.example", "192.0.2.1")}
		var counts Counts
		c := New(Config{Lookup: dns.lookup, Counts: &counts})
		defer c.Close()
		c.Hold("a.example")
		lookup(t, c, "a.example", false, "192.0.2.1")
		time.Sleep(time.Hour)
		synctest.Wait()
		counts.want(t, 2, 0, 0)
	})
}
