package handler

import (
	"context"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file tests clients whose backend does not accept at once. The connection
// stays on the event loop until the attempt loop has to do something in parallel.

// waitRelay waits until the only relay is in a state. is is called with its lock held.
func (r *rig) waitRelay(what string, is func(*tcpRelay) bool) {
	r.t.Helper()
	relaytest.Eventually(r.t, what, func() bool {
		r.service.mu.Lock()
		defer r.service.mu.Unlock()
		t := r.service.relays
		if t == nil {
			return false
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		return is(t)
	})
}

// waitSearching waits until the attempt loop has the only relay.
func (r *rig) waitSearching() {
	r.t.Helper()
	r.waitRelay("the attempt loop to start", func(t *tcpRelay) bool { return t.search != nil })
}

// waitOnLoop waits until the only relay has a slow connection on the event loop.
func (r *rig) waitOnLoop() {
	r.t.Helper()
	r.waitRelay("a slow connection on the event loop", func(t *tcpRelay) bool { return t.first != nil && t.first.slow })
}

// newSlowRig returns a rig whose only backend is silent. wantDescriptorsClosed
// waits until no more descriptors are open than before the first client.
func newSlowRig(t *testing.T, edit ...func(*Options)) (r *rig, silent *silentTCP, wantDescriptorsClosed func()) {
	t.Helper()
	relaytest.NoLeaks(t)
	silent = newSilentTCP(t, lo(t, 1)+":0")
	r = newRig(t, []string{silent.String()}, edit...)
	if r.relay.opts.TCP == nil {
		t.Skip("event loops are disabled")
	}
	before := relaytest.OpenDescriptors(t)
	return r, silent, func() {
		t.Helper()
		relaytest.Eventually(t, "the relay to close its descriptors", func() bool { return relaytest.OpenDescriptors(t) <= before })
	}
}

// A slow connection stays on the event loop: no goroutine waits for it, neither that
// of the caller nor a search.
func TestSlowConnectStaysOnLoop(t *testing.T) {
	r, silent, _ := newSlowRig(t)
	near, far := relaytest.TCPPair(t)
	client := plainClient(far)
	client.Early = []byte("early ")
	r.relay.ServeTCP(t.Context(), client)
	relaytest.Write(t, near, "bird")
	r.waitOnLoop()
	r.service.mu.Lock()
	relay := r.service.relays
	r.service.mu.Unlock()
	relay.mu.Lock()
	searched := relay.search != nil
	relay.mu.Unlock()
	silent.wake(echo)
	relaytest.WantRead(t, near, "early bird")
	relay.mu.Lock()
	searched = searched || relay.search != nil || relay.first != nil
	relay.mu.Unlock()
	if searched {
		t.Error("the connection has left the event loop")
	}
	relaytest.Check(t, near.CloseWrite())
	wantEnding(t, "the client", near, "FIN")
	r.wantEnd(stream.ClientClosed, 10, 10)
	r.wantLines("connected", 1, "backend failed, first strike", 0)
	if s := r.status(silent.String(), upstream.TCP); s.Succeeded != 1 {
		t.Errorf("%+v", s)
	}
}

// A connection on the event loop moves to the attempt loop, and is still used there,
// when a hedged attempt is due or its backend is demoted.
func TestSlowConnectMovesToAttemptLoop(t *testing.T) {
	for name, hedge := range map[string]time.Duration{"hedge": 50 * time.Millisecond, "demotion": 0} {
		t.Run(name, func(t *testing.T) {
			relaytest.NoLeaks(t)
			first, second := newSilentTCP(t, lo(t, 1)+":0"), newSilentTCP(t, lo(t, 2)+":0")
			r := newRig(t, []string{first.String(), second.String()}, func(o *Options) { o.ConnectTimeout, o.Hedge = time.Hour, hedge })
			if r.relay.opts.TCP == nil {
				t.Skip("event loops are disabled")
			}
			client, done := r.client()
			if hedge == 0 {
				r.waitOnLoop()
				r.demote(first.String(), upstream.TCP)
			}
			r.waitSearching()
			first.wake(greet("first"))
			relaytest.WantRead(t, client, "first")
			relaytest.Check(t, client.CloseWrite())
			relaytest.Receive(t, "the end of the relay", done)
		})
	}
}

// A connection that is found slow after its backend was demoted does not stay on the loop.
func TestSlowConnectAfterADemotion(t *testing.T) {
	r, silent, _ := newSlowRig(t, func(o *Options) { o.ConnectTimeout = time.Hour })
	walk := r.relay.walk(upstream.TCP)
	a := &startedAttempt{ctx: t.Context()}
	var ok bool
	if a.attempt, ok = walk.Next(time.Now()); !ok {
		t.Fatal("no backend")
	}
	relay := &tcpRelay{relay: r.relay, first: a}
	if relay.ConnectWaits(false) <= 0 {
		t.Error("a slow connection does not stay on the loop")
	}
	late := &tcpRelay{relay: r.relay, first: &startedAttempt{ctx: t.Context(), attempt: a.attempt}}
	r.demote(silent.String(), upstream.TCP)
	if again := late.ConnectWaits(false); again > 0 {
		t.Errorf("waits for another %v for a backend that was demoted", again)
	}
}

// When the context of the client ends, the relay is refused.
func TestContextEndsDuringSlowConnect(t *testing.T) {
	r, _, wantDescriptorsClosed := newSlowRig(t, func(o *Options) { o.ConnectTimeout = time.Hour })
	ctx, cancel := context.WithCancelCause(t.Context())
	near, far := relaytest.TCPPair(t)
	done := r.serve(ctx, plainClient(far))
	r.waitOnLoop()
	cancel(errStopping)
	wantEnding(t, "the client", near, "RST")
	relaytest.Receive(t, "the end of the relay", done)
	r.wantReasons(stream.Shutdown)
	relaytest.Check(t, near.Close())
	wantDescriptorsClosed()
}

func TestClientResetsDuringSlowConnect(t *testing.T) {
	r, _, wantDescriptorsClosed := newSlowRig(t, func(o *Options) { o.ConnectTimeout = time.Hour })
	client, done := r.client()
	r.waitOnLoop()
	relaytest.Reset(t, client)
	relaytest.Receive(t, "the end of the relay", done)
	r.wantReasons(stream.ClientReset)
	wantDescriptorsClosed()
}

// A cut ends a slow connect in each phase.
func TestCutOfSlowConnect(t *testing.T) {
	const hedge = 20 * time.Millisecond
	for _, phase := range []string{"on the event loop", "slow on the event loop", "in the attempt loop", "between them"} {
		t.Run(phase, func(t *testing.T) {
			r, _, wantDescriptorsClosed := newSlowRig(t, func(o *Options) {
				o.ConnectTimeout = time.Hour
				if phase == "in the attempt loop" || phase == "between them" {
					o.Hedge = hedge
				}
			})
			for i := range 10 {
				client, far := relaytest.TCPPair(t)
				r.relay.ServeTCP(t.Context(), plainClient(far))
				switch phase {
				case "slow on the event loop":
					r.waitOnLoop()
				case "in the attempt loop":
					r.waitSearching()
				case "between them":
					time.Sleep(hedge - time.Millisecond + time.Duration(i)*200*time.Microsecond)
				}
				r.service.cut(stream.Shutdown)
				wantEnding(t, "the client", client, "RST")
				relaytest.Check(t, client.Close())
			}
			relaytest.Eventually(t, "the end of all relays", func() bool { tcp, _ := r.service.Active(); return tcp == 0 })
			for _, why := range r.reasons() {
				if why != string(stream.Shutdown) {
					t.Errorf("reason %s, want %s", why, stream.Shutdown)
				}
			}
			r.wantLines("relay ended", 10, "backend failed, first strike", 0, "relay ended by a panic", 0)
			wantDescriptorsClosed()
		})
	}
}

// A connection that leaves the event loop is closed if the attempt loop makes no use of
// it: a drill that began meanwhile fails the attempt, or a limit that was reached.
func TestSlowConnectIsClosedUnused(t *testing.T) {
	for name, meanwhile := range map[string]func(r *rig, silent *silentTCP){
		"drill": func(r *rig, silent *silentTCP) {
			_, err := r.service.StartDrill(r.service.Pool.Backend(silent.String()), FaultRefuse, time.Minute, true, "test")
			relaytest.Check(r.t, err)
		},
		"limit": func(r *rig, _ *silentTCP) {
			r.relay.opts.Loops.sameHost.Add(r.relay.opts.Loops.sameHostLimit)
			r.service.sameHost.Add(r.relay.opts.Loops.sameHostLimit)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, silent, wantDescriptorsClosed := newSlowRig(t, func(o *Options) { o.ConnectTimeout, o.Loops = time.Hour, NewLoops() })
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			near, far := relaytest.TCPPair(t)
			done := r.serve(ctx, plainClient(far))
			r.waitOnLoop()
			meanwhile(r, silent)
			r.demote(silent.String(), upstream.TCP)
			relaytest.Receive(t, "the end of the relay", done)
			relaytest.Check(t, near.Close())
			wantDescriptorsClosed()
		})
	}
}

// Each of two attempts gets the whole connect timeout, counted from its start, as
// without event loops.
func TestConnectTimeoutOnLoop(t *testing.T) {
	const timeout = 300 * time.Millisecond
	r, silent, wantDescriptorsClosed := newSlowRig(t, func(o *Options) { o.ConnectTimeout = timeout })
	began := time.Now()
	client, done := r.client()
	wantEnding(t, "the client", client, "RST")
	relaytest.Receive(t, "the end of the relay", done)
	if took := time.Since(began); took < 2*timeout {
		t.Errorf("refused after %v, want at least %v", took, 2*timeout)
	}
	r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 1, "client refused", 1)
	if s := r.status(silent.String(), upstream.TCP); s.Failed != 2 || s.State == upstream.Up {
		t.Errorf("%+v", s)
	}
	relaytest.Check(t, client.Close())
	wantDescriptorsClosed()
}

// The next address of a backend is dialled in parallel with a silent one, and after
// a dead one. Neither is a strike.
func TestSeveralAddressesOnLoop(t *testing.T) {
	for _, name := range []string{"silent", "dead"} {
		t.Run(name, func(t *testing.T) {
			relaytest.NoLeaks(t)
			first, second := lo(t, 1), lo(t, 2)
			var port string
			if name == "silent" {
				port = newSilentTCP(t, first+":0").String()
			} else {
				port = deadTCP(t, first+":0")
			}
			serveTCP(t, hostPort(second, port), greet("second"))
			r := newRig(t, []string{hostPort("a.test", port)})
			r.resolver.setCached("a.test", first, second)
			for range 3 { // from the second client on, the address that served is tried first
				client, _ := r.client()
				relaytest.WantRead(t, client, "second")
			}
			r.wantLines("connected", 3, "backend failed, first strike", 0)
		})
	}
}
