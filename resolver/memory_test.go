package resolver

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"
)

// Answers of an earlier cache serve while the DNS is down, and are replaced when it is
// up again.
func TestRestoredAnswersServeInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, _, _ := newResolvedCache(t)
		stored, err := json.Marshal(first.Save())
		if err != nil {
			t.Fatal(err)
		}
		var saved []Saved
		if err := json.Unmarshal(stored, &saved); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour) // the answer has expired
		saved = append(saved, Saved{Host: "empty.example"}, Saved{Host: "bad.example", Addrs: ips("0.0.0.0")})

		dns := &fakeDNS{err: errDown}
		c, _ := newCache(t, dns)
		c.Restore(saved)
		lookup(t, c, "a.example", true, "192.0.2.1")
		if entries := c.Entries(); len(entries) != 1 {
			t.Errorf("restored %v, want one name", entries)
		}
		dns.set(func(d *fakeDNS) { d.err, d.addrs = nil, names("a.example", "192.0.2.2") })
		time.Sleep(time.Minute + time.Second) // a held or used name is tried again
		lookup(t, c, "a.example", false, "192.0.2.2")
		c.Restore(saved)
		lookup(t, c, "a.example", false, "192.0.2.2") // its own answer is newer
	})
}

// An answer that has not expired serves without a query. It is renewed soon,
// but not by Restore itself.
func TestRestoredAnswersThatAreFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{addrs: names("a.example", "192.0.2.2")}
		c, _ := newCache(t, dns)
		now := time.Now()
		c.Hold("a.example")
		c.Restore([]Saved{
			{Host: "a.example", Addrs: ips("192.0.2.1"), ResolvedAt: now.Add(-time.Minute), ExpiresAt: now.Add(time.Minute)},
			{Host: "future.example", Addrs: ips("192.0.2.3"), ResolvedAt: now.Add(time.Hour), ExpiresAt: now.Add(1000 * time.Hour)},
		})
		time.Sleep(time.Second)
		if answer, ok := c.Cached("a.example"); !ok || answer.Stale || answer.Addrs[0].String() != "192.0.2.1" || len(dns.queries()) != 0 {
			t.Errorf("answer %v, %v after %d queries", answer, ok, len(dns.queries()))
		}
		if e, _ := c.Entry("future.example"); !e.ResolvedAt.Equal(now) || e.ExpiresAt.After(now.Add(c.lifetime.Longest())) {
			t.Errorf("%+v, which is younger than this cache", e)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		lookup(t, c, "a.example", false, "192.0.2.2")
		if len(dns.queries()) != 2 {
			t.Errorf("%d queries, want one for each name in the background", len(dns.queries()))
		}
	})
}
