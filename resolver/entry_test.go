package resolver

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestEntry also checks that Entry does not mark the name as used: the entry is removed in time.
func TestEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}
		c := New(Config{TTL: time.Minute, Servers: servers, Lookup: (&fakeDNS{addrs: names("a.example", "192.0.2.1")}).lookup})
		defer c.Close()
		if c.TTL() != time.Minute || !slices.Equal(c.Servers(), servers) {
			t.Errorf("TTL %v, servers %v", c.TTL(), c.Servers())
		}
		if _, ok := c.Entry("a.example"); ok {
			t.Error("got an entry before the first lookup")
		}
		lookup(t, c, "a.example", false, "192.0.2.1")
		for range 4 {
			if entry, ok := c.Entry("A.example."); ok && entry.Host != "a.example" {
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
