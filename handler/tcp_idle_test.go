package handler

import (
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
)

// shortIdle sets an idle timeout for tests that wait for it and do nothing before.
func shortIdle(o *Options) { o.IdleTimeout = 100 * time.Millisecond }

// longerIdle sets an idle timeout that tests do not reach while they send
// regularly, also on a busy machine.
func longerIdle(o *Options) { o.IdleTimeout = soon }

// At the idle timeout both sides get a FIN.
func TestIdleTimeout(t *testing.T) {
	r, client, backend, done := established(t, longerIdle)
	relaytest.Write(t, client, "hello")
	relaytest.WantRead(t, backend, "hello")
	wantEnding(t, "the client", client, "FIN")
	wantEnding(t, "the backend", backend, "FIN")
	relaytest.Receive(t, "the end of the relay", done)
	r.wantEnd(stream.IdleTimeout, 5, 0)
	if took := r.line("relay ended").ContextMap()["duration"].(time.Duration); took < soon {
		t.Errorf("ended after %v, before the timeout", took)
	}
}

// Half-closed relays have the idle timeout too.
func TestIdleAfterHalfClose(t *testing.T) {
	r, client, backend, done := established(t, shortIdle)
	relaytest.Check(t, client.CloseWrite())
	wantEnding(t, "the backend", backend, "FIN")
	wantEnding(t, "the client", client, "FIN")
	relaytest.Receive(t, "the end of the relay", done)
	r.wantEnd(stream.IdleTimeout, 0, 0)
}

// Bytes in one direction keep both directions open for longer than the idle timeout. The
// side that was silent can still send afterwards.
func TestOneWayStreamKeepsBothDirectionsOpen(t *testing.T) {
	r, client, backend, _ := established(t, longerIdle)
	other, otherClient, otherBackend, _ := established(t, longerIdle)
	for began := time.Now(); time.Since(began) < 2*r.relay.opts.IdleTimeout; time.Sleep(20 * time.Millisecond) {
		relaytest.Write(t, backend, "down")
		relaytest.WantRead(t, client, "down")
		relaytest.Write(t, otherClient, "up")
		relaytest.WantRead(t, otherBackend, "up")
	}
	relaytest.Write(t, client, "still here")
	relaytest.WantRead(t, backend, "still here")
	relaytest.Write(t, otherBackend, "still here")
	relaytest.WantRead(t, otherClient, "still here")
	r.wantLines("relay ended", 0)
	other.wantLines("relay ended", 0)
}

// A relay whose client or backend does not read ends at the idle timeout, also if
// the other side has more to send.
func TestIdleTimeoutOfBlockedRelay(t *testing.T) {
	var waits []func()
	for _, name := range []string{"client", "backend"} {
		r, client, backend, done := established(t, longerIdle) // long enough to fill the buffers
		silent, sender := client, backend
		if name == "backend" {
			silent, sender = backend, client
		}
		relaytest.WriteUntilFull(t, sender)
		waits = append(waits, func() { // both relays wait at the same time
			relaytest.Receive(t, "the end of the relay", done)
			if got := r.line("relay ended").ContextMap()["reason"]; got != string(stream.IdleTimeout) {
				t.Errorf("silent %s: reason %v, want %s", name, got, stream.IdleTimeout)
			}
			wantEnding(t, "the sender", sender, "FIN")
			// Bytes are missing at the silent side: after a FIN they would look complete.
			wantEnding(t, "the silent "+name, silent, "RST")
		})
	}
	for _, wait := range waits {
		wait()
	}
}
