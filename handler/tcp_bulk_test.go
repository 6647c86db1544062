package handler

import (
	"context"
	"net"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
)

// 64 MiB in both directions at once, in pieces of random sizes, arrive unchanged and
// are counted exactly.
func TestBulkInBothDirections(t *testing.T) {
	size := int64(64 << 20)
	if testing.Short() {
		size = 4 << 20
	}
	for _, test := range []struct {
		name   string
		client func(*net.TCPConn) stream.Client
	}{
		{"plain sockets", plainClient},
		{"wrapped client", func(conn *net.TCPConn) stream.Client {
			return stream.Client{Conn: wrapped{conn}, CloseWriter: conn, Socket: conn}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			relaytest.NoLeaks(t)
			server, conns := acceptTCP(t, "127.0.0.1:0")
			r := newRig(t, []string{server.String()})
			client, far := relaytest.TCPPair(t)
			done := r.serve(context.Background(), test.client(far))
			backend := relaytest.Receive(t, "a connection at the backend", conns)
			up := relaytest.Transfer(client, backend, size, false)
			down := relaytest.Transfer(backend, client, size+12345, false)
			relaytest.Check(t, <-up)
			relaytest.Check(t, <-down)
			relaytest.Receive(t, "the end of the relay", done)
			fields := r.line("relay ended").ContextMap()
			if fields["bytes_up"] != size || fields["bytes_down"] != size+12345 {
				t.Errorf("counted %v, want %d and %d bytes", fields, size, size+12345)
			}
		})
	}
}
