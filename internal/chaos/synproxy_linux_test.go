package chaos

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/relaytest/lab"
	"github.com/async-relay/caddy-relay/internal/stream"
)

// A SYN proxy in front of a backend answers with a window of 0, so the first bytes cannot be
// sent with the acknowledgement of the handshake, nor can a FIN. A client that has sent some
// already, or a FIN, is served all the same.
func TestBackendBehindASYNProxy(t *testing.T) {
	if !lab.InNamespace(t) {
		return
	}
	far := lab.NewHost(t, "far")
	far.Link(t, "10.40.0.1/24")
	var listener net.Listener
	var err error
	relaytest.Check(t, far.Do(func() { listener, err = net.Listen("tcp", "10.40.0.2:0") }))
	relaytest.Check(t, err)
	defer listener.Close()
	go serveEcho(listener) // ends when the listener is closed
	far.ProxySYNs(t, netip.MustParseAddrPort(listener.Addr().String()).Port())
	for name, engine := range map[string]stream.Engine{"goroutines": nil, "loops": stream.NewEngine(nil)} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, dgram.Goroutines{}, func(o *handler.Options) { o.TCP = engine }, listener.Addr().String())
			for _, text := range []string{"", "x", strings.Repeat("x", 64<<10)} {
				s.echoTCP(t, text)
				got, err := io.ReadAll(s.clientTCP(t, text, true))
				if err != nil || string(got) != text {
					t.Errorf("a client that has sent %d bytes and a FIN got %d, %v", len(text), len(got), err)
				}
			}
		})
	}
}
