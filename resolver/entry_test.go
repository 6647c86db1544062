package resolver

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestEntry also checks that Entry does not mark the name as used: the entry is removed in time.
func TestEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{Lifetime: Lifetime{Fixed: time.Minute}, Lookup: (&fakeDNS{addrs: names("a.example", "192.0.2.1")}).lookup})
		defer c.Close()
		if _, ok := c.Entry("a.example"); ok {
			t.Error("got an entry before the first lookup")
		}
		lookup(t, c, "a.example", false, "192.0.2.1")
		for range 4 {
			if entry, ok := c.Entry("A.example."); ok && (entry.Host != "a.example" || entry.Lifetime != time.Minute) {
				t.Errorf("got %v", entry)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		if entry, ok := c.Entry("a.example"); ok {
			t.Errorf("entry was not removed: %v", entry)
		}
	})
}
