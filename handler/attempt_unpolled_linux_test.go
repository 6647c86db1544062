package handler

import (
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// Go's poller cannot watch a connection that is slow to be established: a local
// shortage, which is retried and does not count against the backend.
func TestSlowConnectUnpolled(t *testing.T) {
	if !relaytest.InChild(t, "RELAY_DISABLE=") {
		return
	}
	relaytest.NoLeaks(t)
	live := serveTCP(t, "127.0.0.1:0", echo)
	running := newRig(t, []string{live.String()})
	for range 16 { // they keep all event loops running
		near, _ := running.client()
		relaytest.Write(t, near, "hello")
		relaytest.WantRead(t, near, "hello")
	}
	silent := newSilentTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{silent.String()}, func(o *Options) {
		o.ConnectTimeout = 2 * time.Second
		o.TCP = running.relay.opts.TCP
		o.Hedge = 50 * time.Millisecond // after which the connection leaves the event loop
	})
	near, far := relaytest.TCPPair(t)
	relaytest.RejectPolling(t, relaytest.AnyDescriptor)

	done := r.serve(t.Context(), plainClient(far))
	wantEnding(t, "the client", near, "RST")
	relaytest.Receive(t, "the end", done)
	r.wantLines("client refused", 1, "out of descriptors, memory or ports", 1,
		"backend failed, first strike", 0, "attempt failed", 0, "attempt not counted", 0)
	if s := r.status(silent.String(), upstream.TCP); s.Failed != 0 {
		t.Errorf("the failure counts against the backend: %+v", s)
	}
}
