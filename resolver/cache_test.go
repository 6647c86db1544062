package resolver

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestHitSendsNoQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{addrs: names("a.example", "192.0.2.1"), takes: time.Second}
		c, events := newCache(t, dns)
		if answer, ok := c.Cached("a.example"); ok {
			t.Fatalf("an empty cache answered %v", answer)
		}
		dns.wantQueries(t, 0)

		start := time.Now()
		lookup(t, c, "a.example", false, "192.0.2.1")
		elapsed(t, start, time.Second)

		resolved := time.Now()
		time.Sleep(time.Minute)
		start = time.Now()
		for _, host := range []string{"a.example", "A.Example"} {
			lookup(t, c, host, false, "192.0.2.1")
			answer, ok := c.Cached(host)
			if !ok || !answer.ResolvedAt.Equal(resolved) {
				t.Fatalf("cached %q: %v, %v", host, answer, ok)
			}
		}
		elapsed(t, start, 0)
		synctest.Wait()
		dns.wantQueries(t, 1)
		events.want(t, "resolved a.example [192.0.2.1]")
	})
}

func TestAnswerForAnAddressIsTheAddress(t *testing.T) {
	dns := &fakeDNS{}
	c, _ := newCache(t, dns)
	for host, want := range map[string]string{
		"192.0.2.1":        "192.0.2.1",
		"2001:db8::1":      "2001:db8::1",
		"::ffff:192.0.2.1": "192.0.2.1",
		"fe80::1%Eth0":     "fe80::1%Eth0",
	} {
		answer, err := c.Lookup(t.Context(), host, patience)
		wantAnswer(t, answer, err, false, want)
		answer, err = c.Refresh(t.Context(), host, time.Now(), patience)
		wantAnswer(t, answer, err, false, want)
		if _, ok := c.Cached(host); !ok {
			t.Errorf("no cached answer for %s", host)
		}
	}
	dns.wantQueries(t, 0)
	if entries := c.Entries(); len(entries) > 0 {
		t.Errorf("the cache has entries for addresses: %v", entries)
	}
}

func TestDefaultTTLIsAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, dns, _ := newResolvedCache(t)
		dns.set(func(d *fakeDNS) { d.err = errDown }) // nothing refreshes the entry
		time.Sleep(time.Hour - 1)
		if _, ok := c.Cached("a.example"); !ok {
			t.Error("expired before an hour had passed")
		}
		time.Sleep(time.Nanosecond)
		if _, ok := c.Cached("a.example"); ok {
			t.Error("not expired after an hour")
		}
	})
}

func TestFailuresAreRememberedForFiveSeconds(t *testing.T) {
	notFound := &net.DNSError{Err: "no such host", Name: "a.example", Server: "192.0.2.53:53", IsNotFound: true}
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"error":        {notFound, "lookup a.example: no such host (from 192.0.2.53:53)"},
		"empty answer": {nil, "lookup a.example: no addresses in the answer"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dns := &fakeDNS{err: test.err}
				c, events := newCache(t, dns)
				fail := func() {
					t.Helper()
					_, err := c.Lookup(t.Context(), "a.example", patience)
					var dnsErr *net.DNSError
					if !errors.As(err, &dnsErr) || err.Error() != test.want {
						t.Fatalf("error %q, want %q", err, test.want)
					}
				}
				fail()
				fail()
				time.Sleep(5*time.Second - 1)
				fail()
				dns.wantQueries(t, 1)
				time.Sleep(time.Nanosecond)
				fail()
				dns.wantQueries(t, 2)
				synctest.Wait()
				events.want(t, "failed a.example: "+test.want) // once

				// A success ends the outage.
				dns.set(func(d *fakeDNS) { d.err, d.addrs = nil, names("a.example", "192.0.2.1") })
				time.Sleep(5 * time.Second)
				lookup(t, c, "a.example", false, "192.0.2.1")
				synctest.Wait()
				events.want(t, "resolved a.example [192.0.2.1]")
			})
		})
	}
}

func TestRememberedFailureReturnsStaleAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, dns, _ := newResolvedCache(t)
		c.Flush("")
		dns.set(func(d *fakeDNS) { d.err = errDown })
		lookup(t, c, "a.example", true, "192.0.2.1")
		dns.wantQueries(t, 2)

		dns.set(func(d *fakeDNS) { d.takes = time.Minute })
		time.Sleep(5*time.Second - 1)
		start := time.Now()
		lookup(t, c, "a.example", true, "192.0.2.1")
		elapsed(t, start, 0)
		dns.wantQueries(t, 2)
	})
}

func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{addrs: names("a.example", "192.0.2.1"), takes: 100 * time.Millisecond}
		c, events := newCache(t, dns)
		began := time.Now()
		lookup(t, c, "a.example", false, "192.0.2.1")

		// The entry was resolved after the attempt began, so it is returned.
		answer, err := c.Refresh(t.Context(), "A.example", began, patience)
		wantAnswer(t, answer, err, false, "192.0.2.1")
		dns.wantQueries(t, 1)
		if _, ok := c.Cached("a.example"); !ok {
			t.Fatal("an entry resolved after the attempt began was dropped")
		}

		// The entry was resolved before the attempt began: it is dropped at once and resolved again.
		// All callers share the query.
		time.Sleep(time.Second)
		dns.set(func(d *fakeDNS) { d.addrs = names("a.example", "192.0.2.2") })
		began = time.Now()
		for range 3 {
			go func() {
				answer, err := c.Refresh(t.Context(), "a.example", began, patience)
				wantAnswer(t, answer, err, false, "192.0.2.2")
			}()
		}
		synctest.Wait()
		if _, ok := c.Cached("a.example"); ok {
			t.Fatal("the entry was not dropped")
		}
		lookup(t, c, "a.example", false, "192.0.2.2")
		elapsed(t, began, 100*time.Millisecond)
		dns.wantQueries(t, 2)
		synctest.Wait()
		events.want(t, "resolved a.example [192.0.2.1]", "changed a.example [192.0.2.1] [192.0.2.2]")
	})
}

func TestRefreshFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, dns, _ := newResolvedCache(t)
		time.Sleep(time.Minute)
		dns.set(func(d *fakeDNS) { d.err = errDown })
		refresh := func() {
			t.Helper()
			answer, err := c.Refresh(t.Context(), "a.example", time.Now(), patience)
			wantAnswer(t, answer, err, true, "192.0.2.1")
			if answer, err = c.Refresh(t.Context(), "b.example", time.Now(), patience); !errors.Is(err, errDown) {
				t.Fatalf("answer %v, error %v", answer, err)
			}
		}
		refresh()
		dns.wantQueries(t, 3)
		time.Sleep(time.Second - 1)
		refresh()
		dns.wantQueries(t, 3) // the failure is younger than a second
		time.Sleep(time.Nanosecond)
		refresh()
		dns.wantQueries(t, 5)
	})
}

func TestSuccessClearsARememberedFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{err: errDown}
		c, _ := newCache(t, dns)
		_, _ = c.Lookup(t.Context(), "a.example", patience)
		time.Sleep(time.Second)
		dns.set(func(d *fakeDNS) { d.err, d.addrs = nil, names("a.example", "192.0.2.1") })
		answer, err := c.Refresh(t.Context(), "a.example", time.Now(), patience)
		wantAnswer(t, answer, err, false, "192.0.2.1")

		// The failure is not yet 5 s old, but must not be returned while a query is in flight.
		dns.set(func(d *fakeDNS) { d.addrs, d.takes = names("a.example", "192.0.2.2"), 100*time.Millisecond })
		go func() { _, _ = c.Refresh(t.Context(), "a.example", time.Now(), patience) }()
		synctest.Wait()
		lookup(t, c, "a.example", false, "192.0.2.2")
	})
}

func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{addrs: names("a.example", "192.0.2.1")}
		dns.addrs["b.example"] = ips("192.0.2.2")
		c, events := newCache(t, dns)
		lookup(t, c, "a.example", false, "192.0.2.1")
		lookup(t, c, "b.example", false, "192.0.2.2")
		if _, err := c.Lookup(t.Context(), "none.example", patience); err == nil {
			t.Fatal("no error for a name without addresses")
		}

		for _, step := range []struct {
			host string
			want int
		}{{"A.example.", 1}, {"a.example", 0}, {"other.example", 0}, {"", 2}, {"", 0}} {
			if n := c.Flush(step.host); n != step.want {
				t.Errorf("flush of %q dropped %d, want %d", step.host, n, step.want)
			}
			_, ok := c.Cached("b.example")
			if want := step.host != ""; ok != want {
				t.Errorf("after flush of %q, b.example cached: %v", step.host, ok)
			}
		}
		dns.wantQueries(t, 3) // a flush sends no query

		// The next lookup sends a query, even after a remembered failure.
		dns.set(func(d *fakeDNS) { d.addrs = names("none.example", "192.0.2.3") })
		lookup(t, c, "none.example", false, "192.0.2.3")
		// The old addresses are still cached.
		lookup(t, c, "b.example", true, "192.0.2.2")
		dns.wantQueries(t, 5)
		synctest.Wait()
		events.want(t, "resolved a.example [192.0.2.1]", "resolved b.example [192.0.2.2]",
			"failed none.example: lookup none.example: no addresses in the answer",
			"resolved none.example [192.0.2.3]",
			"stale b.example [192.0.2.2] 0s: lookup b.example: no addresses in the answer")
	})
}

func TestEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{addrs: names("b.example", "192.0.2.2")}
		dns.addrs["a.example"] = ips("192.0.2.1")
		c, _ := newCache(t, dns)
		start := time.Now()
		lookup(t, c, "b.example", false, "192.0.2.2")
		lookup(t, c, "a.example", false, "192.0.2.1")
		_, failure := c.Lookup(t.Context(), "c.example", patience)
		time.Sleep(time.Second)
		c.Flush("b.example")
		dns.set(func(d *fakeDNS) { d.hangs = true })
		go func() { _, _ = c.Lookup(t.Context(), "d.example", patience) }()
		synctest.Wait() // the first query for d.example is in flight, so it has no entry yet

		entries := c.Entries()
		var hosts []string
		for _, e := range entries {
			hosts = append(hosts, e.Host)
		}
		if got := strings.Join(hosts, " "); got != "a.example b.example c.example" {
			t.Fatalf("entries of %s", got)
		}
		a, b, failed := entries[0], entries[1], entries[2]
		if a.Stale || a.Err != nil || !a.ResolvedAt.Equal(start) || !a.ExpiresAt.Equal(start.Add(time.Hour)) ||
			len(a.Addrs) != 1 || a.Addrs[0] != ips("192.0.2.1")[0] {
			t.Errorf("fresh entry: %+v", a)
		}
		time.Sleep(time.Second)
		c.Flush("b.example") // is stale since the first flush
		b = c.Entries()[1]
		if !b.Stale || !b.ExpiresAt.Equal(start.Add(time.Second)) || len(b.Addrs) != 1 {
			t.Errorf("dropped entry: %+v", b)
		}
		if failed.Stale || failed.Addrs != nil || failed.Err != failure {
			t.Errorf("failed entry: %+v", failed)
		}
	})
}

func TestErrorHasTheCauseOfTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newCache(t, &fakeDNS{hangs: true})
		why := errors.New("the client left")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(why)
		_, err := c.Lookup(ctx, "A.example", patience)
		if !errors.Is(err, why) || err.Error() != "lookup a.example: the client left" {
			t.Errorf("error %v", err)
		}
	})
}
