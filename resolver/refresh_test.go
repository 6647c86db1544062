package resolver

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestUsedNamesAreRefreshed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{addrs: names("a.example", "192.0.2.1", "192.0.2.2"), takes: time.Second}
		c, events := newCache(t, dns)
		lookup(t, c, "a.example", false, "192.0.2.1", "192.0.2.2")
		for range 24 * 60 { // a day, in which every lookup is a hit
			time.Sleep(time.Minute)
			if _, ok := c.Cached("a.example"); !ok {
				t.Fatal("the entry expired")
			}
		}
		queries := dns.queries()
		if n := len(queries); n < 24 || n > 27 {
			t.Errorf("%d queries in a day, want 24 to 27", n)
		}
		for i := range queries[1:] {
			// 1 s from a query to its answer
			age := queries[i+1].at.Sub(queries[i].at) - time.Second
			if age < 54*time.Minute || age > time.Hour {
				t.Errorf("refreshed at the age of %v", age)
			}
		}
		synctest.Wait()
		events.want(t, "resolved a.example [192.0.2.1 192.0.2.2]")

		// A new order of the addresses is used, but not reported as a change.
		dns.set(func(d *fakeDNS) { d.addrs = names("a.example", "192.0.2.2", "192.0.2.1") })
		time.Sleep(time.Hour)
		lookup(t, c, "a.example", false, "192.0.2.2", "192.0.2.1")
		events.want(t)
		dns.set(func(d *fakeDNS) { d.addrs = names("a.example", "192.0.2.2", "192.0.2.3") })
		time.Sleep(time.Hour)
		lookup(t, c, "a.example", false, "192.0.2.2", "192.0.2.3")
		events.want(t, "changed a.example [192.0.2.2 192.0.2.1] [192.0.2.2 192.0.2.3]")
	})
}

func TestUnusedNamesAreRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, dns, _ := newResolvedCache(t)
		_, _ = c.Lookup(t.Context(), "none.example", patience)
		dns.wantQueries(t, 2)
		// a.example was used within the TTL before its first refresh, but not before the second.
		time.Sleep(2*time.Hour - 1)
		synctest.Wait()
		dns.wantQueries(t, 3)
		if n := len(c.Entries()); n != 2 {
			t.Fatalf("%d entries before their removal, want 2", n)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if entries := c.Entries(); len(entries) > 0 || len(c.due) > 0 {
			t.Errorf("unused names were not removed: %v", entries)
		}
		time.Sleep(24 * time.Hour)
		dns.wantQueries(t, 3)
	})
}

func TestHeldNamesAreRefreshed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{addrs: names("a.example", "192.0.2.1")}
		c, _ := newCache(t, dns)
		c.Hold("A.example", "never-used.example", "192.0.2.1")
		c.Hold("a.example")
		time.Sleep(24 * time.Hour)
		dns.wantQueries(t, 0) // Hold sends no query

		lookup(t, c, "a.example", false, "192.0.2.1")
		_, _ = c.Lookup(t.Context(), "never-used.example", patience) // never resolves
		c.Release("a.example")                                       // one hold remains
		time.Sleep(24 * time.Hour)
		if _, ok := c.Cached("a.example"); !ok { // the last use of the name
			t.Error("a held name was not refreshed")
		}
		counts := map[string]int{}
		for _, q := range dns.queries() {
			counts[q.host]++
		}
		if n := counts["a.example"]; n < 24 || n > 27 || len(counts) != 2 || counts["never-used.example"] != 1 {
			t.Errorf("queries in a day: %v", counts)
		}

		c.Release("a.example", "never-used.example", "192.0.2.1")
		c.Release("a.example") // has no effect without a hold
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if entries := c.Entries(); len(entries) > 0 || len(c.held) > 0 {
			t.Errorf("released names were not removed: %v, held %v", entries, c.held)
		}
		c.Hold("a.example") // is not undone by the surplus release
		lookup(t, c, "a.example", false, "192.0.2.1")
		time.Sleep(24 * time.Hour)
		if _, ok := c.Cached("a.example"); !ok {
			t.Error("a name that is held again was not refreshed")
		}
	})
}

func TestRefreshesAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 300
		_, dns, _ := newFilledCache(t, n)
		start := time.Now()
		time.Sleep(time.Hour)
		minutes := map[int]int{}
		for _, q := range dns.queries()[n:] {
			minutes[int(q.at.Sub(start).Minutes())]++
		}
		total := 0
		for minute, count := range minutes {
			total += count
			if minute < 54 || count > n/2 {
				t.Errorf("%d of %d refreshed in minute %d", count, n, minute)
			}
		}
		if total != n {
			t.Errorf("%d of %d names refreshed within the hour", total, n)
		}
	})
}

func TestConcurrentRefreshesAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 40
		c, dns, hosts := newFilledCache(t, n)
		c.Hold(hosts...)
		// Queries take so long that due entries queue up. All must be queried in the end.
		dns.set(func(d *fakeDNS) { d.hangs, d.queried, d.most = true, nil, 0 })
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if dns.most != maxRefreshing {
			t.Errorf("%d concurrent refreshes, want %d", dns.most, maxRefreshing)
		}
		queried := map[string]bool{}
		for _, q := range dns.queries() {
			queried[q.host] = true
		}
		if len(queried) != n {
			t.Errorf("%d of %d names were queried", len(queried), n)
		}
	})
}

func TestStaleDuringAnOutage(t *testing.T) {
	for name, test := range map[string]struct {
		after []string // addresses after the outage
		want  []string // observer calls at its end
	}{
		"same addresses":  {[]string{"192.0.2.1"}, nil},
		"other addresses": {[]string{"192.0.2.2"}, []string{"changed a.example [192.0.2.1] [192.0.2.2]"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, dns, events := newResolvedCache(t)
				c.Hold("a.example")
				synctest.Wait()
				events.want(t, "resolved a.example [192.0.2.1]")
				dns.set(func(d *fakeDNS) { d.err, d.queried = errDown, nil })

				// The observer is called once, when the first refresh fails.
				time.Sleep(100 * time.Minute)
				lookup(t, c, "a.example", true, "192.0.2.1")
				queries := dns.queries()
				reported := queries[0].at
				for i := range queries[1:] {
					if pause := queries[i+1].at.Sub(queries[i].at); pause != time.Minute && i < len(queries)-2 {
						t.Errorf("next query after %v, want 1m", pause)
					}
				}
				if len(queries) < 40 {
					t.Fatalf("%d queries, want at least 40", len(queries))
				}
				synctest.Wait()
				if n := len(events.lines); n != 1 {
					t.Fatalf("observer calls: %q, want one", events.lines)
				}
				age := reported.Sub(c.Entries()[0].ResolvedAt).Round(time.Minute)
				events.want(t, fmt.Sprintf("stale a.example [192.0.2.1] %v: lookup a.example: %v", age, errDown))
				if err := c.Entries()[0].Err; err == nil {
					t.Error("the entry has no error")
				}

				// It is called again after another TTL.
				time.Sleep(time.Until(reported.Add(59 * time.Minute)))
				synctest.Wait()
				events.want(t)
				time.Sleep(3 * time.Minute)
				synctest.Wait()
				if n := len(events.lines); n != 1 {
					t.Fatalf("observer calls: %q, want one after another hour", events.lines)
				}
				events.lines = nil

				// A background query ends the outage.
				dns.set(func(d *fakeDNS) { d.err, d.addrs = nil, names("a.example", test.after...) })
				time.Sleep(time.Minute)
				synctest.Wait()
				answer, ok := c.Cached("a.example")
				if !ok || answer.Stale || !slices.Equal(answer.Addrs, ips(test.after...)) {
					t.Fatalf("after the outage: %v, %v", answer, ok)
				}
				events.want(t, test.want...)
				if err := c.Entries()[0].Err; err != nil {
					t.Errorf("the entry still has the error %v", err)
				}

				// A new outage is reported, even if it begins at once.
				dns.set(func(d *fakeDNS) { d.err = errDown })
				answer, err := c.Refresh(t.Context(), "a.example", time.Now(), patience)
				wantAnswer(t, answer, err, true, test.after...)
				synctest.Wait()
				if n := len(events.lines); n != 1 {
					t.Fatalf("observer calls: %q, want one for the next outage", events.lines)
				}
			})
		})
	}
}

func TestStaleNamesInUseAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, dns, _ := newResolvedCache(t)
		dns.set(func(d *fakeDNS) { d.err = errDown })
		time.Sleep(time.Hour)
		for range 24 {
			lookup(t, c, "a.example", true, "192.0.2.1")
			time.Sleep(59 * time.Minute)
		}
	})
}

func TestNoRefreshAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, dns, _ := newResolvedCache(t)
		c.Hold("a.example")
		c.Close()
		// refreshLoop does this if its timer fires during Close.
		c.refreshDue(time.Now().Add(time.Hour))
		synctest.Wait()
		dns.wantQueries(t, 1)
	})
}

func TestPauseAfterFailure(t *testing.T) {
	for ttl, want := range map[time.Duration]time.Duration{
		time.Second:      5 * time.Second,
		2 * time.Minute:  12 * time.Second,
		24 * time.Hour:   time.Minute,
		10 * time.Minute: time.Minute,
	} {
		synctest.Test(t, func(t *testing.T) {
			dns := &fakeDNS{addrs: names("a.example", "192.0.2.1")}
			c := New(Config{Lifetime: Lifetime{Fixed: ttl}, Lookup: dns.lookup})
			defer c.Close()
			c.Hold("a.example")
			lookup(t, c, "a.example", false, "192.0.2.1")
			dns.set(func(d *fakeDNS) { d.err = errDown })
			time.Sleep(ttl + 3*want)
			queries := dns.queries()
			if len(queries) < 4 {
				t.Fatalf("TTL %v: %d queries, want at least 4", ttl, len(queries))
			}
			for i := range queries[1 : len(queries)-1] {
				if pause := queries[i+2].at.Sub(queries[i+1].at); pause != want {
					t.Errorf("TTL %v: next query after %v, want %v", ttl, pause, want)
				}
			}
		})
	}
}

func TestMaxEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{addrs: map[string][]netip.Addr{}}
		c, _ := newCache(t, dns)
		fill := func(host string) {
			t.Helper()
			dns.set(func(d *fakeDNS) { d.addrs[host] = ips("192.0.2.1") })
			lookup(t, c, host, false, "192.0.2.1")
		}
		c.Hold("held.example")
		fill("held.example")
		fill("used.example")
		for i := range maxEntries - 2 {
			if i < 3 {
				time.Sleep(time.Minute)
			}
			fill(fmt.Sprintf("n%d.example", i))
		}
		time.Sleep(time.Minute)
		if _, ok := c.Cached("used.example"); !ok {
			t.Fatal("used.example was removed before the cache was full")
		}
		fill("one-more.example")
		fill("two-more.example")
		if n := len(c.Entries()); n != maxEntries || len(c.due) != maxEntries {
			t.Errorf("%d entries, %d in the heap, want %d", n, len(c.due), maxEntries)
		}
		for host, want := range map[string]bool{
			"held.example": true, "used.example": true, "one-more.example": true, "n2.example": true,
			"n0.example": false, "n1.example": false,
		} {
			if _, ok := c.Cached(host); ok != want {
				t.Errorf("%s in the cache: %v, want %v", host, ok, want)
			}
		}
	})
}
