package resolver

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestConcurrentLookupsShareOneQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{addrs: names("a.example", "192.0.2.1"), takes: time.Second}
		c, _ := newCache(t, dns)
		start := time.Now()
		var waiters sync.WaitGroup
		for range 100 {
			waiters.Go(func() { lookup(t, c, "a.example", false, "192.0.2.1") })
		}
		waiters.Wait()
		elapsed(t, start, time.Second)
		dns.wantQueries(t, 1)
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{addrs: names("a.example", "192.0.2.1"), takes: 8 * time.Second}
		c, events := newCache(t, dns)
		start := time.Now()
		var waiters sync.WaitGroup
		waiters.Go(func() { // starts the flight, which outlives this waiter
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if _, err := c.Lookup(ctx, "a.example", patience); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want that of the deadline", err)
			}
			elapsed(t, start, 5*time.Second)
		})
		synctest.Wait()
		waiters.Go(func() { lookup(t, c, "a.example", false, "192.0.2.1") })
		waiters.Wait()
		elapsed(t, start, 8*time.Second)
		dns.wantQueries(t, 1)

		// A flight without waiters still stores its answer.
		c.Flush("")
		dns.set(func(d *fakeDNS) { d.addrs = names("a.example", "192.0.2.2") })
		lookup(t, c, "a.example", true, "192.0.2.1")
		time.Sleep(7 * time.Second)
		synctest.Wait()
		if answer, ok := c.Cached("a.example"); !ok || answer.Addrs[0] != ips("192.0.2.2")[0] {
			t.Errorf("after the flight: %v, %v", answer, ok)
		}
		events.want(t, "resolved a.example [192.0.2.1]", "changed a.example [192.0.2.1] [192.0.2.2]")
	})
}

func TestHangingLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{addrs: names("a.example", "192.0.2.1")}
		dns.addrs["b.example"] = ips("192.0.2.2")
		c, _ := newCache(t, dns)
		lookup(t, c, "a.example", false, "192.0.2.1")
		c.Flush("a.example")
		dns.set(func(d *fakeDNS) { d.hangs = true })

		// The old addresses are returned after patience. Patience counts from the start of the
		// query, so later callers do not wait again.
		start := time.Now()
		lookup(t, c, "a.example", true, "192.0.2.1")
		elapsed(t, start, patience)
		start = time.Now()
		lookup(t, c, "a.example", true, "192.0.2.1")
		elapsed(t, start, 0)
		dns.wantQueries(t, 2)

		// Without old addresses the caller waits until its deadline.
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start = time.Now()
		if _, err := c.Lookup(ctx, "new.example", patience); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want that of the deadline", err)
		}
		elapsed(t, start, 5*time.Second)

		// Two names hang. Other names are not affected.
		dns.set(func(d *fakeDNS) { d.hangs = false })
		start = time.Now()
		lookup(t, c, "b.example", false, "192.0.2.2")
		elapsed(t, start, 0)

		// A hanging query is canceled 10 s after its start, which was 6 s ago.
		if answer, err := c.Lookup(t.Context(), "a.example", time.Hour); err != nil || !answer.Stale {
			t.Errorf("answer %v, error %v", answer, err)
		}
		elapsed(t, start, 4*time.Second)
	})
}

func TestPanicIsAnError(t *testing.T) {
	for name, test := range map[string]struct {
		end  func()
		want string
	}{
		"panic":  {func() { panic("boo") }, "lookup a.example: panic: boo"},
		"goexit": {runtime.Goexit, "lookup a.example: no addresses in the answer"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var healthy atomic.Bool
				c := New(Config{Lookup: func(context.Context, string) (Result, error) {
					if healthy.Load() {
						return Result{Addrs: ips("192.0.2.1")}, nil
					}
					time.Sleep(time.Second)
					test.end()
					return Result{}, nil
				}})
				defer c.Close()
				var waiters sync.WaitGroup
				for range 2 {
					waiters.Go(func() {
						if _, err := c.Lookup(t.Context(), "a.example", patience); err == nil || err.Error() != test.want {
							t.Errorf("error %v, want %s", err, test.want)
						}
					})
				}
				waiters.Wait()
				healthy.Store(true)
				time.Sleep(failureMemory)
				lookup(t, c, "a.example", false, "192.0.2.1")
			})
		})
	}
}

func TestCloseEndsEverything(t *testing.T) {
	// synctest fails if the bubble leaves a goroutine, including that of refreshLoop.
	synctest.Test(t, func(t *testing.T) {
		var returned atomic.Int32
		events := &eventLog{}
		hang := false
		c := New(Config{Observer: events, Lookup: func(ctx context.Context, host string) (Result, error) {
			if !hang {
				return Result{Addrs: ips("192.0.2.1")}, nil
			}
			<-ctx.Done()
			time.Sleep(time.Second) // returns late
			returned.Add(1)
			return Result{}, ctx.Err()
		}})
		lookup(t, c, "old.example", false, "192.0.2.1")
		lookup(t, c, "fresh.example", false, "192.0.2.1")
		c.Flush("old.example")
		hang = true
		var waiters sync.WaitGroup
		wait := func() {
			answer, err := c.Lookup(t.Context(), "old.example", time.Hour)
			wantAnswer(t, answer, err, true, "192.0.2.1")
			if _, err = c.Lookup(t.Context(), "new.example", patience); !errors.Is(err, errClosed) || errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want %v", err, errClosed)
			}
			if _, err = c.Refresh(t.Context(), "newer.example", time.Now(), patience); !errors.Is(err, errClosed) {
				t.Errorf("error %v, want %v", err, errClosed)
			}
		}
		waiters.Go(wait)
		waiters.Go(func() {
			if _, err := c.Lookup(t.Context(), "new.example", patience); !errors.Is(err, errClosed) || errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want %v", err, errClosed)
			}
		})
		synctest.Wait()
		start := time.Now()
		c.Close()
		elapsed(t, start, time.Second)
		if n := returned.Load(); n != 2 {
			t.Errorf("Close returned after %d of 2 lookups had returned", n)
		}
		waiters.Wait()
		wait()    // a closed cache returns the same
		c.Close() // has no effect
		elapsed(t, start, time.Second)
		lookup(t, c, "fresh.example", false, "192.0.2.1")
		events.want(t, "resolved old.example [192.0.2.1]", "resolved fresh.example [192.0.2.1]")
	})
}

// slowObserver is an observer that uses the cache and returns late.
type slowObserver struct {
	eventLog
	c     *Cache
	takes time.Duration
}

func (o *slowObserver) Resolved(string, []netip.Addr) {
	o.c.Flush("")
	time.Sleep(o.takes)
}

func TestObserverDelaysNoLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{addrs: names("a.example", "192.0.2.1")}
		dns.addrs["b.example"] = ips("192.0.2.2")
		observer := &slowObserver{takes: time.Minute}
		c := New(Config{Lookup: dns.lookup, Observer: observer})
		defer c.Close()
		observer.c = c
		start := time.Now()
		lookup(t, c, "a.example", false, "192.0.2.1")
		lookup(t, c, "b.example", false, "192.0.2.2")
		elapsed(t, start, 0)
	})
}
