package resolver

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestLifetimeOfRecords(t *testing.T) {
	record := Lifetime{Min: 5 * time.Second, Max: time.Hour}
	for _, test := range []struct {
		rule      Lifetime
		ttl, want time.Duration
	}{
		{Lifetime{}, time.Minute, time.Hour},
		{Lifetime{Fixed: time.Minute}, time.Hour, time.Minute},
		{record, 0, 5 * time.Second}, // unknown
		{record, time.Second, 5 * time.Second},
		{record, time.Minute, time.Minute},
		{record, 24 * time.Hour, time.Hour},
	} {
		if got := test.rule.orDefault().Of(test.ttl); got != test.want {
			t.Errorf("%+v: lifetime of TTL %v is %v, want %v", test.rule, test.ttl, got, test.want)
		}
	}
}

// A new answer arrives before the old one expires, and names that were resolved
// together are not renewed together.
func TestUntilRefresh(t *testing.T) {
	for life, want := range map[time.Duration]struct{ from, to time.Duration }{
		time.Hour:        {54 * time.Minute, 59 * time.Minute},
		5 * time.Second:  {3 * time.Second, 4667 * time.Millisecond},
		time.Second:      {500 * time.Millisecond, 917 * time.Millisecond},
		10 * time.Minute: {9 * time.Minute, 9*time.Minute + 50*time.Second},
	} {
		least, most := life, time.Duration(0)
		for range 1000 {
			d := untilRefresh(life)
			least, most = min(least, d), max(most, d)
		}
		if least < want.from || most > want.to || most-least < (want.to-want.from)/2 {
			t.Errorf("lifetime %v: refreshed after %v to %v, want %v to %v", life, least, most, want.from, want.to)
		}
	}
}

// A name in use is renewed before its record's TTL ends, so that no client ever
// waits, and follows the record.
func TestRecordTTLIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{addrs: names("a.example", "192.0.2.1"), ttl: 30 * time.Second}
		c := New(Config{Lookup: dns.lookup, Lifetime: Lifetime{Min: 5 * time.Second, Max: time.Hour}})
		defer c.Close()
		c.Hold("a.example")
		lookup(t, c, "a.example", false, "192.0.2.1")
		for range 60 {
			time.Sleep(time.Second)
			if _, ok := c.Cached("a.example"); !ok {
				t.Fatal("the answer has expired")
			}
		}
		if n := len(dns.queries()); n != 3 {
			t.Errorf("%d queries in 60 s of a TTL of 30 s, want 3", n)
		}
		dns.set(func(d *fakeDNS) { d.addrs, d.ttl = names("a.example", "192.0.2.2"), time.Hour })
		time.Sleep(30 * time.Second)
		lookup(t, c, "a.example", false, "192.0.2.2")
		if e, _ := c.Entry("a.example"); e.Lifetime != time.Hour {
			t.Errorf("lifetime %v, want that of the new record", e.Lifetime)
		}
	})
}

// With the lifetime of records, an outage of the DNS changes nothing for clients: the
// old answer stays in use, and is reported once.
func TestRecordTTLInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{addrs: names("a.example", "192.0.2.1"), ttl: 5 * time.Second}
		events := &eventLog{}
		c := New(Config{Lookup: dns.lookup, Observer: events, Lifetime: Lifetime{Min: 5 * time.Second, Max: time.Hour}})
		defer c.Close()
		c.Hold("a.example")
		lookup(t, c, "a.example", false, "192.0.2.1")
		dns.set(func(d *fakeDNS) { d.err = errDown })
		time.Sleep(30 * time.Minute)
		lookup(t, c, "a.example", true, "192.0.2.1")
		events.want(t, "resolved a.example [192.0.2.1]", "stale a.example [192.0.2.1] 0s: lookup a.example: DNS is down")
	})
}

// If the query for one family fails, its old addresses stay, and it is repeated soon.
func TestPartialAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{addrs: names("a.example", "192.0.2.1", "2001:db8::1")}
		c, events := newCache(t, dns)
		refresh := func(want ...string) {
			t.Helper()
			answer, err := c.Refresh(t.Context(), "a.example", time.Now(), patience)
			wantAnswer(t, answer, err, false, want...)
		}
		refresh("192.0.2.1", "2001:db8::1")
		dns.set(func(d *fakeDNS) { d.addrs, d.part = names("a.example", "192.0.2.2"), true })
		refresh("192.0.2.2", "2001:db8::1")
		if e, _ := c.Entry("a.example"); e.Lifetime != 30*time.Second {
			t.Errorf("a partial answer lives for %v, want 30s", e.Lifetime)
		}
		dns.set(func(d *fakeDNS) { d.part = false })
		refresh("192.0.2.2") // the server has answered that there is no IPv6 address
		if e, _ := c.Entry("a.example"); e.Lifetime != time.Hour {
			t.Errorf("lifetime %v, want 1h", e.Lifetime)
		}
		events.want(t, "resolved a.example [192.0.2.1 2001:db8::1]",
			"changed a.example [192.0.2.1 2001:db8::1] [192.0.2.2 2001:db8::1]", "changed a.example [192.0.2.2 2001:db8::1] [192.0.2.2]")
	})
}

// A dot at the end of a name reaches the lookup, and such a name is not the one without
// it. A flush and Entry find both.
func TestFinalDotIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{addrs: names("a.example.", "192.0.2.1")}
		dns.addrs["a.example"] = ips("192.0.2.2")
		c, _ := newCache(t, dns)
		lookup(t, c, "A.example.", false, "192.0.2.1")
		if e, ok := c.Entry("a.example"); !ok || e.Host != "a.example." {
			t.Errorf("entry of the name without a dot: %v, %v", e, ok)
		}
		lookup(t, c, "a.example", false, "192.0.2.2")
		if n := c.Flush("a.example."); n != 2 {
			t.Errorf("flushed %d names, want 2", n)
		}
	})
}
