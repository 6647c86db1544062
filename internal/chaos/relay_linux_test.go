package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// noNames is a Resolver without names: all backends of these tests are IP addresses.
type noNames struct{}

var errNoNames = errors.New("no names in this test")

// Cached implements [handler.Resolver].
func (noNames) Cached(string) ([]netip.Addr, bool) { return nil, false }

// Lookup implements [handler.Resolver].
func (noNames) Lookup(context.Context, string, time.Duration) ([]netip.Addr, error) {
	return nil, errNoNames
}

// Refresh implements [handler.Resolver].
func (noNames) Refresh(context.Context, string, time.Time, time.Duration) ([]netip.Addr, error) {
	return nil, errNoNames
}

// service is a UDP service under test, with its log.
type service struct {
	*handler.Service
	relay *handler.Relay
	logs  *observer.ObservedLogs
}

// newService returns a service with these backends, whose sockets the engine opens.
func newService(t testing.TB, engine dgram.Engine, edit func(*handler.Options), backends ...string) *service {
	t.Helper()
	var addresses []upstream.Address
	for _, text := range backends {
		at := netip.MustParseAddrPort(text)
		addresses = append(addresses, upstream.Address{Text: text, Host: at.Addr().String(), Port: at.Port(), IP: at.Addr()})
	}
	core, logs := observer.New(zapcore.DebugLevel)
	s := &service{
		Service: handler.NewService("test", upstream.NewPool(addresses, 0, time.Now()), nil, handler.NewSessionBudget(netio.SessionLimit(), nil)),
		logs:    logs,
	}
	opts := handler.Options{
		ConnectTimeout: 5 * time.Second,
		IdleTimeout:    time.Minute,
		Resolver:       noNames{},
		UDP:            engine,
		Log:            zap.New(core),
	}
	if edit != nil {
		edit(&opts)
	}
	s.relay = handler.New(s.Service, opts)
	t.Cleanup(s.Close)
	return s
}

// wantNoFailures checks that no attempt on a backend has failed.
func (s *service) wantNoFailures(t testing.TB) {
	t.Helper()
	for _, message := range []string{"backend failed, first strike", "backend failed, second strike", "attempt failed", "attempt not counted", "client refused"} {
		if lines := s.logs.FilterMessage(message).All(); len(lines) > 0 {
			t.Errorf("%d lines %q, the first: %v", len(lines), message, lines[0].ContextMap())
		}
	}
}

// client is a UDP client of a service.
type client struct {
	key     handler.Key
	service *service
	got     chan string // its answers
}

// clients is the number of clients so far. Each has an address of its own.
var clients atomic.Int32

func (s *service) newClient() *client {
	n := clients.Add(1)
	ip := netip.AddrFrom4([4]byte{198, 51, byte(n >> 8), byte(n)})
	return &client{
		key:     handler.Key{Client: netip.AddrPortFrom(ip, 1000), Local: netip.MustParseAddrPort("203.0.113.1:53")},
		service: s,
		got:     make(chan string, 1024),
	}
}

func (c *client) send(datagram string) {
	c.service.relay.Deliver(c.key, [][]byte{[]byte(datagram)}, c)
}

// wants checks that the next answer is this one.
func (c *client) wants(t testing.TB, want string) {
	t.Helper()
	if got := relaytest.Receive(t, strconv.Quote(want), c.got); got != want {
		t.Fatalf("received %q, want %q", got, want)
	}
}

// Reply implements [handler.Replier].
func (c *client) Reply(datagrams [][]byte) error {
	for _, d := range datagrams {
		c.got <- string(d)
	}
	return nil
}

// Release implements [handler.Replier].
func (c *client) Release() {}

// overEngines runs a part of a test over each engine.
func overEngines(t *testing.T, test func(*testing.T, dgram.Engine)) {
	t.Run("goroutines", func(t *testing.T) { test(t, dgram.Goroutines{}) })
	t.Run("loops", func(t *testing.T) { test(t, dgram.NewEngine(nil)) })
}

// hostOf returns the host of an address with a port.
func hostOf(addr string) string { return netip.MustParseAddrPort(addr).Addr().String() }

// namedBackend is a UDP server on loopback whose answers begin with its name.
func namedBackend(t testing.TB, name, at string) (addr string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", at)
	relaytest.Check(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	go func() { // ends when the socket is closed
		buf := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			_, _ = conn.WriteTo(fmt.Appendf(nil, "%s %s", name, buf[:n]), from)
		}
	}()
	return conn.LocalAddr().String()
}
