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

// The search for a backend on a clock of its own: names hang or fail, and no
// socket is ever opened.

func fiveSeconds(o *Options) { o.ConnectTimeout = 5 * time.Second }

// search runs connect and says how long it took.
func (r *rig) search(ctx context.Context, gone func() bool) (time.Duration, error) {
	r.t.Helper()
	began := time.Now()
	o, err := r.relay.connect(ctx, &tcpRelay{relay: r.relay, client: net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:1"))}, nil, gone)
	if o.conn != nil {
		r.t.Fatal("connected to nothing")
	}
	return time.Since(began), err
}

func stays() bool { return false }

func TestHangingNameCostsItsTimeTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []string{"hangs.test:80", "missing.test:80"}, fiveSeconds)
		r.resolver.set("hangs.test", hangAnswer)
		took, err := r.search(t.Context(), stays)
		if took != 10*time.Second || !errors.Is(err, errNoSuchHost) {
			t.Errorf("%v after %v", err, took)
		}
		r.wantLines("backend failed, first strike", 2, "backend failed, second strike", 2, "all backends unavailable", 1)

		// Both are down now, but not forgotten.
		r.resolver.set("hangs.test", errorAnswer(errNoSuchHost))
		if took, err = r.search(t.Context(), stays); took != 0 || !errors.Is(err, errNoSuchHost) {
			t.Errorf("%v after %v", err, took)
		}
		if n := len(r.resolver.questions("hangs.test")); n != 4 {
			t.Errorf("%d questions", n)
		}
		r.wantLines("backend failed, first strike", 2, "backend failed, second strike", 2, "attempt failed", 4)
	})
}

// A slow name delays those who wait for it and nobody else.
func TestHangingNameDelaysNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []string{"hangs.test:80"}, fiveSeconds)
		r.resolver.set("hangs.test", hangAnswer)
		over := make(chan time.Duration)
		for range 2 { // side by side, not one after the other
			go func() {
				took, _ := r.search(t.Context(), stays)
				over <- took
			}()
		}
		if one, other := <-over, <-over; one != 10*time.Second || other != one {
			t.Errorf("refused after %v and %v", one, other)
		}
		r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 1)
	})
}

// At a demotion by others, a waiting client goes on in that instant.
func TestDemotionIsHeardAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []string{"hangs.test:80", "next.test:80"}, fiveSeconds)
		r.resolver.set("hangs.test", hangAnswer)
		heard := make(chan time.Time, 1)
		r.resolver.set("next.test", func(ctx context.Context, q asked) ([]netip.Addr, error) {
			select {
			case heard <- time.Now():
			default:
			}
			return hangAnswer(ctx, q)
		})
		ctx, cancel := context.WithCancelCause(t.Context())
		began := time.Now()
		over := make(chan error)
		go func() {
			_, err := r.search(ctx, stays)
			over <- err
		}()
		time.Sleep(time.Second)
		r.demote("hangs.test:80", upstream.TCP)
		if took := (<-heard).Sub(began); took != time.Second {
			t.Errorf("went on after %v, want the second it took until the demotion", took)
		}
		enough := errors.New("enough")
		cancel(enough)
		if err := <-over; !errors.Is(err, enough) {
			t.Errorf("ended with %v", err)
		}
	})
}

// What comes of a backend that the client no longer waits for is no reason to
// try the next one a second time.
func TestLateFailureChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []string{"slow.test:80", "next.test:80"}, fiveSeconds)
		r.resolver.set("slow.test", func(context.Context, asked) ([]netip.Addr, error) {
			time.Sleep(3 * time.Second)
			return nil, errNoSuchHost
		})
		r.resolver.set("next.test", hangAnswer)
		over := make(chan time.Duration)
		go func() {
			took, _ := r.search(t.Context(), stays)
			over <- took
		}()
		time.Sleep(time.Second)
		r.demote("slow.test:80", upstream.TCP)
		if took := <-over; took != 11*time.Second {
			t.Errorf("refused after %v", took)
		}
		if n := len(r.resolver.questions("next.test")); n != 2 {
			t.Errorf("the next backend was tried %d times, want its two", n)
		}
	})
}

// A client that leaves is noticed in a moment; what was asked for it is
// dropped.
func TestLeavingIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []string{"hangs.test:80"}, fiveSeconds)
		dropped := make(chan time.Time, 1)
		r.resolver.set("hangs.test", func(ctx context.Context, q asked) ([]netip.Addr, error) {
			defer func() { dropped <- time.Now() }()
			return hangAnswer(ctx, q)
		})
		leaves := time.Now().Add(time.Second + watchEvery/2)
		took, err := r.search(context.Background(), func() bool { return time.Now().After(leaves) })
		if !errors.Is(err, errClientGone) || took != time.Second+watchEvery {
			t.Errorf("%v after %v", err, took)
		}
		r.wantLines("backend failed, first strike", 0)
		if late := (<-dropped).Sub(leaves); late >= watchEvery {
			t.Errorf("the question hung on for %v", late)
		}
	})
}
