package handler

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// Health checks and tests see the fault of a drill: otherwise a passed check would
// send clients to the drilled backend again.
func TestChecksSeeTheDrill(t *testing.T) {
	for _, check := range []HealthCheck{{Networks: onTCP}, {Networks: onTCP, Send: []byte("ping")}} {
		for _, fault := range []Fault{FaultRefuse, FaultSilent, FaultReset} {
			relaytest.NoLeaks(t)
			first, second := serveTCP(t, "127.0.0.1:0", echo), serveTCP(t, "127.0.0.1:0", echo)
			r := newRig(t, []string{first.String(), second.String()})
			check.Timeout = 50 * time.Millisecond
			probe := r.prober(check, first.String())
			startDrill(t, r, first.String(), fault)
			probe()
			probe()
			r.wantState(first.String(), upstream.TCP, upstream.Down)
			if got := first.count(); got != 0 {
				t.Errorf("%s: %d connections", fault, got)
			}
			wantReceipt(t, r, first.String(), 2, 0, 0)
			b := r.service.Pool.Backend(first.String())
			test := func(limit time.Duration) error {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				return r.service.Probe(ctx, b, &check, upstream.TCP, netip.MustParseAddrPort(first.String()))
			}
			if err := test(check.Timeout); err == nil || !strings.HasPrefix(err.Error(), "drill: ") {
				t.Errorf("%s: tested with %v", fault, err)
			}
			r.service.StopDrill(b, "test")
			relaytest.Check(t, test(relaytest.Limit))
			check.Timeout = relaytest.Limit // a busy machine may need longer than the silent fault is waited for
			r.prober(check, first.String())()
			r.wantState(first.String(), upstream.TCP, upstream.Up)
		}
	}
}

// UDP checks see a refusal.
func TestUDPChecksSeeTheDrill(t *testing.T) {
	r := newRig(t, []string{"127.0.0.1:9", "127.0.0.2:9"})
	check := HealthCheck{Networks: []upstream.Network{upstream.UDP}, Send: []byte("ping")}
	probe := r.prober(check, "127.0.0.1:9")
	startDrill(t, r, "127.0.0.1:9", FaultRefuse)
	probe()
	if got := r.status("127.0.0.1:9", upstream.UDP); got.State != upstream.Down || !strings.HasPrefix(got.LastFailure.Error, "drill: ") {
		t.Errorf("%+v", got)
	}
}

// A client whose companion serves it past a drilled backend has moved.
func TestReceiptOfHedgedClients(t *testing.T) {
	relaytest.NoLeaks(t)
	first, second := serveTCP(t, "127.0.0.1:0", greet("first")), serveTCP(t, "127.0.0.1:0", greet("second"))
	r := newRig(t, []string{first.String(), second.String()}, hedging)
	startDrill(t, r, first.String(), FaultSilent)
	ann, _ := r.client()
	relaytest.WantRead(t, ann, "second")
	if got := wantReceipt(t, r, first.String(), 0, 1, 0); got.Slowest < r.relay.opts.Hedge {
		t.Errorf("the slowest was served after %s", got.Slowest)
	}
	r.service.Close() // ends the attempt on the drilled backend
}

// A held client is neither refused nor moved until its hold ends.
func TestReceiptOfHeldClients(t *testing.T) {
	relaytest.NoLeaks(t)
	only := serveTCP(t, "127.0.0.1:0", greet("only"))
	r := newRig(t, []string{only.String()}, holdingFor(time.Hour))
	b := r.service.Pool.Backend(only.String())
	_, err := r.service.StartDrill(b, FaultRefuse, time.Minute, true, "test")
	relaytest.Check(t, err)
	ann, _ := r.client()
	waitHeld(t, r, 1)
	r.service.holds.wakeUp() // in vain
	relaytest.Eventually(t, "the client to be held again", func() bool { return r.service.Held() == 1 })
	wantReceipt(t, r, only.String(), 2, 0, 0)
	r.service.StopDrill(b, "test")
	relaytest.WantRead(t, ann, "only")
	wantReceipt(t, r, only.String(), 2, 0, 0)
}

// An attempt that waits for a silent backend continues at the end of its drill.
func TestAttemptContinuesAfterTheDrill(t *testing.T) {
	relaytest.NoLeaks(t)
	only := serveTCP(t, "127.0.0.1:0", greet("only"))
	r := newRig(t, []string{only.String()}, func(o *Options) { o.ConnectTimeout = time.Hour })
	b := r.service.Pool.Backend(only.String())
	_, err := r.service.StartDrill(b, FaultSilent, time.Minute, true, "test")
	relaytest.Check(t, err)
	ann, _ := r.client()
	relaytest.Eventually(t, "the attempt", func() bool { return dialling() == 1 })
	r.service.StopDrill(b, "test")
	relaytest.WantRead(t, ann, "only")
	r.wantLines("backend failed, first strike", 0)
}

// The drill of a backend that a reload removes ends. Its receipt stays.
func TestDrillOfARemovedBackend(t *testing.T) {
	r := newRig(t, []string{"a:1", "b:1"})
	startDrill(t, r, "a:1", FaultRefuse)
	drilled := r.service.Pool.Backend("a:1")
	r.service.EndRemoved("reload")
	if got, _ := r.service.Drill(drilled); !got.Running {
		t.Error("the drill of a backend in the queue has ended")
	}
	r.service.Pool.Update(backendAddresses(t, "b:1"), 0)
	r.service.EndRemoved("reload")
	if got, ok := r.service.LastDrill("a:1"); !ok || got.Running || r.service.drills.active.Load() != 0 {
		t.Errorf("receipt %+v", got)
	}
	entries := r.service.Journal.Entries()
	if last := entries[len(entries)-1]; last.Kind != KindDrillEnd || last.By != "reload" {
		t.Errorf("journal %v", entries)
	}
}

// An attempt that is ended with its judge proves nothing about the backend.
func TestEndOfAJudgeIsNoFailure(t *testing.T) {
	relaytest.NoLeaks(t)
	r := newRig(t, []string{"192.0.2.1:1"})
	for range 100 { // both cases of the judge's select are ready
		walk := r.service.Pool.Walk(upstream.TCP)
		a, _ := walk.Next(time.Now())
		search := r.relay.newAttempts(t.Context(), &tcpRelay{client: new(net.TCPAddr)}, walk)
		search.current = a
		search.results = make(chan outcome, 1)
		search.results <- outcome{attempt: a, err: errors.New("canceled")}
		search.cancel(errServiceClosed)
		search.judge()
	}
	r.wantLines("backend failed, first strike", 0)
}
