package handler

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// condemn demotes a backend by a check, as a standby that accepts connections.
func (r *rig) condemn(backend string) {
	r.t.Helper()
	walk := r.service.Pool.Probe(r.service.Pool.Backend(backend), upstream.TCP, upstream.Works)
	for range 2 {
		a, _ := walk.Next(time.Now())
		r.relay.recordFailure(&walk, outcome{attempt: a, err: errRefused}, upstream.TCP, healthCheckSource{})
	}
	if !r.service.Pool.Backend(backend).Condemned(upstream.TCP) {
		r.t.Fatal(backend, "is not condemned")
	}
}

// pass ends the states of a check.
func (r *rig) pass(backend string) {
	walk := r.service.Pool.Probe(r.service.Pool.Backend(backend), upstream.TCP, upstream.Works)
	a, _ := walk.Next(time.Now())
	r.relay.recordSuccess(&walk, outcome{attempt: a}, upstream.TCP, healthCheckSource{}, time.Now(), false)
}

// A client waits rather than go to a backend that a check has condemned, and is
// served when a check passes. Without hold it goes there.
func TestHoldWaitsForACheck(t *testing.T) {
	relaytest.NoLeaks(t)
	standby := serveTCP(t, "127.0.0.1:0", greet("standby"))
	dead := deadTCP(t, lo(t, 1)+":0")
	for _, held := range []bool{true, false} {
		r := newRig(t, []string{dead, standby.String()}, func(o *Options) {
			if held {
				o.Hold = time.Hour
			}
		})
		r.condemn(standby.String())
		before := standby.count()
		ann, _ := r.client()
		if !held {
			relaytest.WantRead(t, ann, "standby")
			continue
		}
		waitHeld(t, r, 1)
		time.Sleep(4 * recheckEvery) // time for connections that must not be made
		if got := standby.count() - before; got != 0 {
			t.Fatalf("the condemned backend got %d connections", got)
		}
		r.pass(standby.String())
		relaytest.WantRead(t, ann, "standby")
		r.wantLines("client refused", 0)
	}
}

// A condemned backend is tried when the hold has expired.
func TestExpiredHoldTriesCondemnedBackends(t *testing.T) {
	relaytest.NoLeaks(t)
	standby := serveTCP(t, "127.0.0.1:0", greet("standby"))
	r := newRig(t, []string{deadTCP(t, lo(t, 1)+":0"), standby.String()}, holdingFor(100*time.Millisecond))
	r.condemn(standby.String())
	began := time.Now()
	ann, _ := r.client()
	relaytest.WantRead(t, ann, "standby")
	if took := time.Since(began); took < 100*time.Millisecond {
		t.Errorf("served after %s", took)
	}
}

// A client that is first in a queue of condemned backends is held, too: on an event
// loop its first attempt is made without a goroutine.
func TestHoldWithoutABackendToTry(t *testing.T) {
	relaytest.NoLeaks(t)
	standby := serveTCP(t, "127.0.0.1:0", greet("standby"))
	r := newRig(t, []string{standby.String()}, holdingFor(time.Hour))
	r.condemn(standby.String())
	ann, _ := r.client()
	waitHeld(t, r, 1)
	if got := standby.count(); got != 0 { // later there may be two: that of a recheck, too
		t.Errorf("%d connections, want none", got)
	}
	r.pass(standby.String())
	relaytest.WantRead(t, ann, "standby")
}

// A client that was woken up in vain counts as held during its pause, and is
// released if it leaves or the process exits.
func TestPausingClientIsHeld(t *testing.T) {
	relaytest.NoLeaks(t)
	for _, exit := range []bool{true, false} {
		r := newRig(t, []string{deadTCP(t, "127.0.0.1:0")}, holdingFor(time.Hour))
		var gone atomic.Bool
		w := holding{relay: r.relay, client: new(tcpRelay), gone: gone.Load, deadline: time.Now().Add(time.Hour), pause: time.Hour}
		w.client.relay, w.client.local = r.relay, &net.TCPAddr{Port: 1}
		result := make(chan error, 1)
		go func() { // ends with the hold
			_, err := w.await(t.Context(), true, nil)
			result <- err
		}()
		waitHeld(t, r, 1)
		r.service.holds.wakeUp()
		want := errClientGone
		if gone.Store(!exit); exit {
			want = errStopping
			r.service.Close()
		}
		if err := relaytest.Receive(t, "the end of the hold", result); err != want {
			t.Errorf("released with %v, want %v", err, want)
		}
		waitHeld(t, r, 0)
	}
}

// After a reload, the settings of the new relay are those of the attempts for held
// clients, once it holds a client.
func TestHeldClientsOfTwoConfigs(t *testing.T) {
	relaytest.NoLeaks(t)
	r := newRig(t, []string{deadTCP(t, "127.0.0.1:0")}, holdingFor(time.Hour))
	r.client()
	waitHeld(t, r, 1)
	old, next := r.relay, New(r.service, r.relay.opts)
	old.Retire()
	r.relay = next
	r.client()
	waitHeld(t, r, 2)
	if got, _ := r.service.holds.rechecker(upstream.TCP); got != next {
		t.Error("the attempts are made by the retired relay")
	}
	r.service.Close()
}

// A companion is no backend that a check has condemned, or that is cooling: it
// would often connect first.
func TestNoCompanionOnACondemnedBackend(t *testing.T) {
	relaytest.NoLeaks(t)
	slow, standby := newSilentTCP(t, "127.0.0.1:0"), serveTCP(t, "127.0.0.1:0", greet("standby"))
	r := newRig(t, []string{slow.String(), standby.String()}, hedging)
	r.condemn(standby.String())
	ann, _ := r.client()
	waitForSYN(t, slow.String())
	time.Sleep(5 * r.relay.opts.Hedge) // time for a companion that must not start
	slow.wake(greet("slow"))
	relaytest.WantRead(t, ann, "slow")
	if got := standby.count(); got != 0 {
		t.Errorf("the condemned backend got %d connections", got)
	}
}

// While clients are held, the check of a condemned backend does not wait for its
// interval.
func TestHeldClientsAreServedByTheNextCheck(t *testing.T) {
	relaytest.NoLeaks(t)
	var works atomic.Bool
	server := serveTCP(t, "127.0.0.1:0", func(conn *net.TCPConn) {
		if works.Load() {
			echo(conn)
		}
	})
	r := newRig(t, []string{server.String()}, holdingFor(time.Hour))
	end := r.checkHealth(HealthCheck{Interval: time.Hour, Timeout: relaytest.Limit, Networks: onTCP, Send: []byte("ping"), Expect: [][]byte{[]byte("ping")}})
	r.condemn(server.String())
	ann, _ := r.client()
	waitHeld(t, r, 1)
	works.Store(true)
	relaytest.Write(t, ann, "question")
	relaytest.WantRead(t, ann, "question")
	end()
	if r.service.checker.Load() != nil {
		t.Error("a check that has ended is still used")
	}
}
