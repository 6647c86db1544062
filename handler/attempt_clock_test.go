package handler

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// This file tests the search for a backend with the fake clock of synctest: names
// hang or fail, and no socket is opened.

func fiveSeconds(o *Options) { o.ConnectTimeout = 5 * time.Second }

// search runs connect and returns how long it took.
func (r *rig) search(ctx context.Context, gone func() bool) (time.Duration, error) {
	r.t.Helper()
	began := time.Now()
	o, err := r.relay.connect(ctx, &tcpRelay{relay: r.relay, client: net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:1"))}, r.relay.walk(upstream.TCP), nil, gone)
	if o.conn != nil {
		r.t.Fatal("connected to nothing")
	}
	return time.Since(began), err
}

// clientStays reports that the client has not left.
func clientStays() bool { return false }

// A hanging name takes the connect timeout twice, once for each attempt.
func TestHangingNameTakesTwoTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []string{"hangs.test:80", "missing.test:80"}, fiveSeconds)
		r.resolver.set("hangs.test", hangAnswer)
		took, err := r.search(t.Context(), clientStays)
		if took != 10*time.Second || !errors.Is(err, errNoSuchHost) {
			t.Errorf("%v after %v", err, took)
		}
		r.wantLines("backend failed, first strike", 2, "backend failed, second strike", 2, "all backends unavailable", 1)

		// Both are down now and are still tried.
		r.resolver.set("hangs.test", errorAnswer(errNoSuchHost))
		if took, err = r.search(t.Context(), clientStays); took != 0 || !errors.Is(err, errNoSuchHost) {
			t.Errorf("%v after %v", err, took)
		}
		if n := len(r.resolver.callsFor("hangs.test")); n != 4 {
			t.Errorf("%d lookups, want 4", n)
		}
		r.wantLines("backend failed, first strike", 2, "backend failed, second strike", 2, "attempt failed", 4)
	})
}

// Two clients that wait for a hanging name do not delay each other.
func TestHangingNameDelaysClientsInParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []string{"hangs.test:80"}, fiveSeconds)
		r.resolver.set("hangs.test", hangAnswer)
		ended := make(chan time.Duration)
		for range 2 {
			go func() {
				took, _ := r.search(t.Context(), clientStays)
				ended <- took
			}()
		}
		if one, other := <-ended, <-ended; one != 10*time.Second || other != one {
			t.Errorf("refused after %v and %v", one, other)
		}
		r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 1)
	})
}

// At a demotion by other clients, a waiting client tries the next backend at
// once.
func TestDemotionMovesClientAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []string{"hangs.test:80", "next.test:80"}, fiveSeconds)
		r.resolver.set("hangs.test", hangAnswer)
		lookedUp := make(chan time.Time, 1)
		r.resolver.set("next.test", func(ctx context.Context, call resolverCall) ([]netip.Addr, error) {
			select {
			case lookedUp <- time.Now():
			default:
			}
			return hangAnswer(ctx, call)
		})
		ctx, cancel := context.WithCancelCause(t.Context())
		began := time.Now()
		ended := make(chan error)
		go func() {
			_, err := r.search(ctx, clientStays)
			ended <- err
		}()
		time.Sleep(time.Second)
		r.demote("hangs.test:80", upstream.TCP)
		if took := (<-lookedUp).Sub(began); took != time.Second {
			t.Errorf("tried the next backend after %v, want 1s, the time of the demotion", took)
		}
		enough := errors.New("enough")
		cancel(enough)
		if err := <-ended; !errors.Is(err, enough) {
			t.Errorf("ended with %v", err)
		}
	})
}

// The failure of a backend that the client no longer waits for does not make it
// try the next one again.
func TestLateFailureChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []string{"slow.test:80", "next.test:80"}, fiveSeconds)
		r.resolver.set("slow.test", func(context.Context, resolverCall) ([]netip.Addr, error) {
			time.Sleep(3 * time.Second)
			return nil, errNoSuchHost
		})
		r.resolver.set("next.test", hangAnswer)
		ended := make(chan time.Duration)
		go func() {
			took, _ := r.search(t.Context(), clientStays)
			ended <- took
		}()
		time.Sleep(time.Second)
		r.demote("slow.test:80", upstream.TCP)
		if took := <-ended; took != 11*time.Second {
			t.Errorf("refused after %v", took)
		}
		if n := len(r.resolver.callsFor("next.test")); n != 2 {
			t.Errorf("the next backend was tried %d times, want 2", n)
		}
	})
}

// When the client leaves, its search ends within watchEvery, and its lookup is
// canceled.
func TestClientLeavesDuringSearch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []string{"hangs.test:80"}, fiveSeconds)
		canceled := make(chan time.Time, 1)
		r.resolver.set("hangs.test", func(ctx context.Context, call resolverCall) ([]netip.Addr, error) {
			defer func() { canceled <- time.Now() }()
			return hangAnswer(ctx, call)
		})
		leaves := time.Now().Add(time.Second + watchEvery/2)
		took, err := r.search(context.Background(), func() bool { return time.Now().After(leaves) })
		if !errors.Is(err, errClientGone) || took != time.Second+watchEvery {
			t.Errorf("%v after %v", err, took)
		}
		r.wantLines("backend failed, first strike", 0)
		if late := (<-canceled).Sub(leaves); late >= watchEvery {
			t.Errorf("the lookup continued for %v", late)
		}
	})
}
