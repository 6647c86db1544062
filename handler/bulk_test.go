package handler

import (
	"context"
	"net"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
)

// Tens of megabytes both ways at once, in pieces of any size, arrive as they
// were sent and are counted to the byte.
func TestBulkBothWays(t *testing.T) {
	size := int64(64 << 20)
	if testing.Short() {
		size = 4 << 20
	}
	for _, test := range []struct {
		name   string
		client func(*net.TCPConn) stream.Client
	}{
		{"plain sockets", plain},
		{"wrapped client", func(conn *net.TCPConn) stream.Client {
			return stream.Client{Conn: wrapped{conn}, CloseWrite: conn.CloseWrite, Socket: conn}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			relaytest.NoLeaks(t)
			server, conns := handOver(t, "127.0.0.1:0")
			r := newRig(t, []string{server.String()})
			client, far := tcpPair(t)
			done := r.serve(context.Background(), test.client(far))
			backend := receiveFrom(t, "a connection", conns)
			up := relaytest.Transfer(client, backend, size, false)
			down := relaytest.Transfer(backend, client, size+12345, false)
			relaytest.Check(t, <-up)
			relaytest.Check(t, <-down)
			receiveFrom(t, "the end", done)
			fields := r.line("relay ended").ContextMap()
			if fields["bytes_up"] != size || fields["bytes_down"] != size+12345 {
				t.Errorf("counted %v", fields)
			}
		})
	}
}
