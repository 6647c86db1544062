package stream

import (
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A panic of a client's CloseWrite ends the relay, also if it is the last FIN.
func TestPanicOfTheLastFIN(t *testing.T) {
	for _, first := range []Side{ClientSide, BackendSide} {
		t.Run(string(first.closed()), func(t *testing.T) {
			relaytest.NoLeaks(t)
			r := newRig(t, kind{name: "goroutines", new: NewMover}, setup{delay: true})
			client := wrappedClient(r.clientFar)
			client.CloseWriter = closeWriteFunc(func() error { panic("CloseWrite") })
			r.mayPanic.Store(true)
			r.mover = NewMover(client, r, NewWheel(longIdle))
			r.start()
			relaytest.Check(t, r.side(first).CloseWrite())
			if first == ClientSide {
				wantStream(t, "the backend", r.backend, "", fin)
				relaytest.Check(t, r.backend.CloseWrite())
			}
			relaytest.Receive(t, "the panic", r.panics)
			r.end()
		})
	}
}
