package handler

import (
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file is what becomes of a client whose backend does not take it at once:
// the loop waits for a moment, and then the attempt loop.

// waitSearching waits until the attempt loop has taken the only relay over.
func (r *rig) waitSearching() {
	r.t.Helper()
	eventually(r.t, "the attempt loop", func() bool {
		r.service.mu.Lock()
		defer r.service.mu.Unlock()
		t := r.service.relays
		if t == nil {
			return false
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.search != nil
	})
}

// slow is a rig on a loop before a silent backend, with what the relay has open
// once nobody is served.
func slow(t *testing.T, edit ...func(*Options)) (r *rig, silent *silentTCP, wantNothingLeft func()) {
	t.Helper()
	noLeaks(t)
	silent = newSilentTCP(t, lo(t, 1)+":0")
	r = newRig(t, []string{silent.String()}, edit...)
	if r.relay.opts.TCP == nil {
		t.Skip("event loops are switched off")
	}
	before := descriptors(t)
	return r, silent, func() {
		t.Helper()
		eventually(t, "all descriptors", func() bool { return descriptors(t) <= before })
	}
}

// ServeTCP has gone by then: nobody's goroutine waits.
func TestSlowConnectIsTakenOver(t *testing.T) {
	r, silent, _ := slow(t)
	near, far := tcpPair(t)
	client := plain(far)
	client.Early = []byte("early ")
	r.relay.ServeTCP(t.Context(), client)
	say(t, near, "bird")
	r.waitSearching()
	silent.wake(echo)
	hear(t, near, "early bird")
	check(t, near.CloseWrite())
	wantEnding(t, "the client", near, "FIN")
	r.wantEnd(stream.ClientClosed, 10, 10)
	r.wantLines("connected", 1, "backend failed, first strike", 0)
	if s := r.status(silent.String(), upstream.TCP); s.Succeeded != 1 {
		t.Errorf("%+v", s)
	}
}

func TestClientLeavesASlowConnect(t *testing.T) {
	r, _, wantNothingLeft := slow(t, func(o *Options) { o.ConnectTimeout = time.Hour })
	client, done := r.client()
	r.waitSearching()
	resetNow(t, client)
	receiveFrom(t, "the end", done)
	r.wantReasons(stream.ClientReset)
	wantNothingLeft()
}

// A cut ends it in either phase: while the loop waits, and after that.
func TestCutOfASlowConnect(t *testing.T) {
	for _, phase := range []string{"on the loop", "in the attempt loop", "somewhere between"} {
		t.Run(phase, func(t *testing.T) {
			r, _, wantNothingLeft := slow(t, func(o *Options) { o.ConnectTimeout = time.Hour })
			for i := range 10 {
				client, far := tcpPair(t)
				r.relay.ServeTCP(t.Context(), plain(far))
				switch phase {
				case "in the attempt loop":
					r.waitSearching()
				case "somewhere between":
					time.Sleep(stream.SlowConnect - time.Millisecond + time.Duration(i)*200*time.Microsecond)
				}
				r.service.cut(stream.Shutdown)
				wantEnding(t, "the client", client, "RST")
				check(t, client.Close())
			}
			eventually(t, "the end of all", func() bool { tcp, _ := r.service.Active(); return tcp == 0 })
			for _, why := range r.reasons() {
				if why != string(stream.Shutdown) {
					t.Errorf("ended by %s", why)
				}
			}
			r.wantLines("relay ended", 10, "backend failed, first strike", 0, "relay ended by a panic", 0)
			wantNothingLeft()
		})
	}
}

// Two strikes, each of the connect timeout counted from the attempt's begin, as
// the portable way has them.
func TestConnectTimeoutOnALoop(t *testing.T) {
	const timeout = 300 * time.Millisecond
	r, silent, wantNothingLeft := slow(t, func(o *Options) { o.ConnectTimeout = timeout })
	began := time.Now()
	client, done := r.client()
	wantEnding(t, "the client", client, "RST")
	receiveFrom(t, "the end", done)
	if took := time.Since(began); took < 2*timeout {
		t.Errorf("refused after %v", took)
	}
	r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 1, "client refused", 1)
	if s := r.status(silent.String(), upstream.TCP); s.Failed != 2 || s.State == upstream.Up {
		t.Errorf("%+v", s)
	}
	check(t, client.Close())
	wantNothingLeft()
}

// The next address of the same backend is tried beside one that is silent on
// the loop, and after one that is dead; neither is a strike.
func TestSeveralAddressesOnALoop(t *testing.T) {
	for _, name := range []string{"silent", "dead"} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
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
			for range 3 { // from the second on, the one that served comes first
				client, _ := r.client()
				hear(t, client, "second")
			}
			r.wantLines("connected", 3, "backend failed, first strike", 0)
		})
	}
}
