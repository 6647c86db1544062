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
