package handler

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// inFlight returns the number of shared lookups.
func (r *Relay) inFlight() int {
	r.lookups.mu.Lock()
	defer r.lookups.mu.Unlock()
	return len(r.lookups.inFlight)
}

func TestUDPSharedLookup(t *testing.T) {
	bubble := func(name string, f func(t *testing.T, r *udpRig)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f(t, newUDPRig(t, []string{"a.example:53"}, func(o *Options) { o.ConnectTimeout = 5 * time.Second }))
			})
		})
	}
	bubble("serves all sessions that wait for the name", func(t *testing.T, r *udpRig) {
		found := make(chan bool)
		r.resolver.set("a.example", waitAnswer(found, "192.0.2.1"))
		goroutines := runtime.NumGoroutine()
		for n := range 100 {
			r.deliver(n, new(udpClient), "a")
			synctest.Wait()
		}
		if more := runtime.NumGoroutine() - goroutines; more > 1 {
			t.Errorf("%d goroutines more", more)
		}
		close(found)
		synctest.Wait()
		if open, _ := r.engine.sockets(); open != 100 {
			t.Errorf("%d sessions have a socket, want 100", open)
		}
		if n := len(r.resolver.callsFor("a.example")); n != 1 {
			t.Errorf("%d calls of the resolver, want 1", n)
		}
		if got := r.resolver.callsFor("a.example")[0].patience; got != time.Second {
			t.Errorf("patience %v, want 1s", got)
		}
		if r.relay.inFlight() != 0 {
			t.Error("the lookup has not ended")
		}
	})
	bubble("each session waits for its own connect timeout", func(t *testing.T, r *udpRig) {
		r.resolver.set("a.example", hangAnswer)
		// wantFailed checks how many of the two sessions have given up their first lookup.
		wantFailed := func(want int) {
			t.Helper()
			synctest.Wait()
			if got := int(r.status("a.example:53", upstream.UDP).Failed); got != want {
				t.Fatalf("%d attempts failed, want %d", got, want)
			}
		}
		r.deliver(0, new(udpClient), "a")
		time.Sleep(time.Second)
		r.deliver(1, new(udpClient), "a")
		time.Sleep(4*time.Second - time.Millisecond)
		wantFailed(0)
		time.Sleep(time.Millisecond)
		wantFailed(1)
		time.Sleep(time.Second - time.Millisecond)
		wantFailed(1)
		time.Sleep(time.Millisecond)
		wantFailed(2)
		if err := r.lines("backend failed, first strike")[0].ContextMap()["error"]; err != "lookup a.example: connect timeout" {
			t.Errorf("error %q", err)
		}
		if calls := r.resolver.callsFor("a.example"); len(calls) != 2 || calls[0].method != "lookup" || calls[1].method != "refresh" {
			t.Errorf("calls of the resolver: %v", calls)
		}
	})
	bubble("ends with the last session that waits", func(t *testing.T, r *udpRig) {
		ended := false
		r.resolver.set("a.example", func(ctx context.Context, _ resolverCall) ([]netip.Addr, error) {
			<-ctx.Done()
			ended = true
			return nil, context.Cause(ctx)
		})
		for n := range 3 {
			r.deliver(n, new(udpClient), "a")
		}
		for n := range 3 {
			if synctest.Wait(); ended || r.relay.inFlight() != 1 {
				t.Fatalf("the lookup ended with session %d left", n)
			}
			r.session(n).end(evictedForRoom)
		}
		if synctest.Wait(); !ended || r.relay.inFlight() != 0 {
			t.Error("the lookup continues without sessions")
		}
		r.wantLines("backend failed, first strike", 0)
	})
	bubble("an answer that is too old for a session is not used", func(t *testing.T, r *udpRig) {
		var since []time.Duration
		began := time.Now()
		r.resolver.set("a.example", func(_ context.Context, call resolverCall) ([]netip.Addr, error) {
			since = append(since, call.since.Sub(began))
			time.Sleep(time.Second)
			return addrsOf(fmt.Sprintf("192.0.2.%d", len(since))), nil
		})
		b := r.service.Pool.Backend("a.example:53")
		for n := range 4 { // the third and the fourth are to have the second query
			r.deliver(n, new(udpClient), "a")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for n := range 4 {
			s := r.session(n)
			s.lock()
			s.startAttemptLocked(upstream.Attempt{Backend: b}, query{how: afresh, since: began.Add(time.Duration(n/2) * time.Minute)})
			s.unlock()
			synctest.Wait()
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if want := []time.Duration{time.Time{}.Sub(began), 0, time.Minute}; !slices.Equal(since, want) {
			t.Errorf("queries since %v, want %v", since, want)
		}
		for n := range 4 {
			s := r.session(n)
			s.lock()
			if want := addrsOf(fmt.Sprintf("192.0.2.%d", 2+n/2)); !slices.Equal(s.addrs, want) {
				t.Errorf("session %d has %v, want %v", n, s.addrs, want)
			}
			s.unlock()
		}
	})
	bubble("a panic ends all sessions that wait", func(t *testing.T, r *udpRig) {
		hold := make(chan bool)
		r.resolver.set("a.example", func(context.Context, resolverCall) ([]netip.Addr, error) {
			<-hold
			panic("resolver panics")
		})
		for n := range 3 {
			r.deliver(n, new(udpClient), "a")
		}
		synctest.Wait()
		close(hold)
		synctest.Wait()
		r.wantSessions(0)
		r.wantLines("relay ended by a panic", 3)
		if r.relay.inFlight() != 0 {
			t.Error("the lookup has not ended")
		}
	})
	bubble("a reload starts a lookup with the new settings", func(t *testing.T, r *udpRig) {
		r.resolver.set("a.example", hangAnswer)
		r.deliver(1, new(udpClient), "a")
		opts := r.relay.opts
		opts.ConnectTimeout = time.Second
		next := New(r.service, opts)
		next.Deliver(udpKey(2), [][]byte{[]byte("b")}, new(udpClient))
		r.demote("a.example:53", upstream.UDP)
		time.Sleep(time.Second)
		synctest.Wait()
		if r.session(1).phase != searching || r.session(2).phase != refused {
			t.Errorf("after the new timeout: phases %d, %d", r.session(1).phase, r.session(2).phase)
		}
	})
}
