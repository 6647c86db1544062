package module

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/module/api"
	"github.com/async-relay/caddy-relay/upstream"
)

var errTestTimeout = errors.New("test timeout")

// postTest tests all addresses of a backend now. The result does not affect the
// queue: it is neither a strike nor a success.
func postTest(r *http.Request) (any, error) {
	s, b, err := requested(r)
	if err != nil {
		return nil, err
	}
	// The test must not end with the request's context. The admin server cancels
	// that after its read timeout of ten seconds, and connect_timeout may be longer.
	return s.newTest().run(context.WithoutCancel(r.Context()), s, b), nil
}

// backendTest is a test of a backend. It uses the probe of the service's health
// check, or a TCP connect if the service has none. UDP is tested only if the
// health check gets an answer to something, because silence proves nothing.
type backendTest struct {
	timeout  time.Duration // of the lookup, and of each address
	networks []upstream.Network
	probe    handler.HealthCheck
	kind     string            // the probe in words
	untested map[string]string // reasons, by network
}

// newTest returns the test for the current settings of the service.
func (s *service) newTest() backendTest {
	t := backendTest{timeout: caddyfile.DefaultConnectTimeout, kind: "connect (no health_check)", untested: make(map[string]string)}
	g := s.current.Load()
	if g == nil {
		t.networks = []upstream.Network{upstream.TCP}
		return t
	}
	t.timeout, t.probe.PROXY = g.connectTimeout, g.proxyProtocol
	t.probe.Networks = []upstream.Network{upstream.TCP, upstream.UDP}
	if g.check != nil {
		t.timeout, t.probe, t.kind = g.check.Timeout, *g.check, g.checkKind
	}
	for _, n := range []upstream.Network{upstream.TCP, upstream.UDP} {
		switch tests := t.probe.Probes(n); {
		case tests && (g.check != nil || g.listened.has(n)):
			t.networks = append(t.networks, n)
		case tests || len(g.listened.networks) == 0 || !g.listened.has(n):
		case !slices.Contains(t.probe.Networks, n) && (len(t.probe.Send) > 0 || t.probe.HTTP != nil):
			t.untested[n.String()] = "health_check.network is " + t.probe.Networks[0].String()
		default:
			t.untested[n.String()] = "health_check has no send"
		}
	}
	return t
}

func (t backendTest) run(ctx context.Context, s *service, b *upstream.Backend) api.Test {
	result := api.Test{Service: s.Name, Backend: b.Text, Check: t.kind, Dials: []api.TestedDial{}, Untested: t.untested}
	if t.probe.ProbedPort(b.Port) == 0 {
		result.Error = "it has the port of each client: set health_check.port to a port that can be tested"
		return result
	}
	addrs := []netip.Addr{b.IP}
	if !b.IP.IsValid() {
		began := time.Now()
		var err error
		addrs, err = t.lookup(ctx, s, b.Host)
		result.Lookup = handler.Milliseconds(time.Since(began))
		if err != nil {
			result.Error = err.Error()
			return result
		}
	}
	result.Dials = make([]api.TestedDial, len(t.networks)*len(addrs))
	var dialling sync.WaitGroup
	for i, n := range t.networks {
		for j, addr := range addrs {
			d := &result.Dials[i*len(addrs)+j]
			dialling.Go(func() { *d = t.dial(ctx, s, b, n, netip.AddrPortFrom(addr, t.probe.ProbedPort(b.Port))) }) // ends with its timeout at the latest
		}
	}
	dialling.Wait()
	result.OK = true
	for dials := range slices.Chunk(result.Dials, len(addrs)) { // one chunk per network
		result.OK = result.OK && slices.ContainsFunc(dials, func(d api.TestedDial) bool { return d.OK })
	}
	return result
}

func (t backendTest) lookup(ctx context.Context, s *service, host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.timeout, errTestTimeout)
	defer cancel()
	return s.Lookup(ctx, host, t.timeout)
}

func (t backendTest) dial(ctx context.Context, s *service, b *upstream.Backend, n upstream.Network, addr netip.AddrPort) api.TestedDial {
	ctx, cancel := context.WithTimeoutCause(ctx, t.timeout, errTestTimeout)
	defer cancel()
	began := time.Now()
	err := s.Probe(ctx, b, &t.probe, n, addr)
	d := api.TestedDial{Network: n.String(), Address: addr.String(), OK: err == nil, Latency: handler.Milliseconds(time.Since(began))}
	if err != nil {
		d.Error = err.Error()
	}
	return d
}
