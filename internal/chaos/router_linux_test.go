package chaos

import (
	"io"
	"net"
	"os/exec"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/relaytest/lab"
	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// A router that has no route to the backend reports "network is unreachable", the
// error that a missing route of this machine has. The first is the backend's
// failure and the second is not.
func TestRouterWithoutRoute(t *testing.T) {
	if !lab.InNamespace(t) {
		return
	}
	router := lab.NewHost(t, "r")
	router.Link(t, "10.20.0.1/24")
	router.Set(t, "net/ipv4/ip_forward", "1")
	for _, command := range []*exec.Cmd{
		router.Command("ip", "route", "del", "default"),
		exec.Command("ip", "route", "add", "10.99.0.0/24", "via", "10.20.0.2"),
	} {
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	const behindRouter, withoutRoute = "10.99.0.9:80", "10.98.0.9:80"
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	relaytest.Check(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go serveEcho(listener) // ends when the listener is closed
	for name, engine := range map[string]stream.Engine{"goroutines": nil, "loops": stream.NewEngine(nil)} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, dgram.Goroutines{}, func(o *handler.Options) { o.TCP = engine }, behindRouter, withoutRoute, listener.Addr().String())
			for range 3 {
				s.echoTCP(t, "x")
			}
			for _, b := range s.Stats(time.Now()).Backends {
				n := b.Networks[upstream.TCP]
				switch b.Backend.Text {
				case behindRouter:
					if n.State != upstream.Down || n.Failed != 2 || n.FailedLocal != 0 {
						t.Errorf("behind the router: %+v", n)
					}
				case withoutRoute:
					if n.State != upstream.Up || n.Failed != 0 || n.FailedLocal == 0 {
						t.Errorf("without a route: %+v", n)
					}
				}
			}
		})
	}
}

// serveEcho is a TCP backend that sends back what it gets.
func serveEcho(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }() // ends with its client
	}
}

// echoTCP relays one TCP client, which has sent text and expects it back.
func (s *service) echoTCP(t *testing.T, text string) {
	t.Helper()
	near := s.clientTCP(t, text, false)
	got := make([]byte, len(text))
	if _, err := io.ReadFull(near, got); err != nil || string(got) != text {
		t.Fatalf("read %q, %v", got, err)
	}
}

// detached is a client whose connection the relay closes.
type detached struct{ conn *net.TCPConn }

// Detach implements [stream.Detacher].
func (d detached) Detach() (fd int, err error) { return netio.Detach(d.conn) }

// clientTCP relays one TCP client, which has sent text before, and a FIN if it has finished.
func (s *service) clientTCP(t *testing.T, text string, finished bool) net.Conn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	relaytest.Check(t, err)
	defer listener.Close()
	near, err := net.Dial("tcp", listener.Addr().String())
	relaytest.Check(t, err)
	t.Cleanup(func() { _ = near.Close() })
	far, err := listener.Accept()
	relaytest.Check(t, err)
	socket := far.(*net.TCPConn)
	client := stream.Client{Conn: socket, CloseWriter: socket, Socket: socket, Detacher: detached{socket}}
	_ = near.SetDeadline(time.Now().Add(relaytest.Limit))
	_, err = near.Write([]byte(text))
	relaytest.Check(t, err)
	if finished {
		relaytest.Check(t, near.(*net.TCPConn).CloseWrite())
	}
	go s.relay.ServeTCP(t.Context(), client) // ends with the client
	return near
}
