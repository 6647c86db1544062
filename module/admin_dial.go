package module

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

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
	return s.newTest().run(context.WithoutCancel(r.Context()), b), nil
}

// postTestAddress tests an address that need not be in a config.
func postTestAddress(r *http.Request) (any, error) {
	var request api.TestRequest
	body := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 4096))
	body.DisallowUnknownFields()
	if err := body.Decode(&request); err != nil {
		return nil, apiErrorf(http.StatusBadRequest, `body must be {"address": "host:port"}: %w`, err)
	}
	result, err := testAddress(context.WithoutCancel(r.Context()), request.Service, request.Address)
	if err == nil {
		logOperation(r, "test", zap.String("service", request.Service), zap.String("address", request.Address), zap.Bool("ok", result.OK))
	}
	return result, err
}

// testAddress tests an address "host:port" as if it were a backend of a service:
// with its probe, its settings and its DNS servers. If the service is "", it makes a
// TCP connect and queries the system's resolver.
func testAddress(ctx context.Context, service, address string) (api.Test, error) {
	parsed, err := caddyfile.ParseBackend(address)
	if err != nil {
		return api.Test{}, apiErrorf(http.StatusBadRequest, "address: %w", err)
	}
	if parsed.SRV != "" {
		return api.Test{}, apiErrorf(http.StatusBadRequest, "address: %s stands for the targets of SRV records; test one of them", parsed.Text)
	}
	b := &upstream.Backend{Address: upstream.Address{Text: parsed.Text, Host: parsed.Host, Port: parsed.Port, IP: parsed.Addr}}
	t := backendTest{timeout: caddyfile.DefaultConnectTimeout, networks: []upstream.Network{upstream.TCP}, kind: "connect"}
	if service != "" {
		s, err := findService(service)
		if err != nil {
			return api.Test{}, err
		}
		t = s.newTest()
	}
	return t.run(ctx, b), nil
}

// backendTest is a test of a backend. It uses the probe of the service's health
// check, or a TCP connect if the service has none. UDP is tested only if the
// health check gets an answer to something, because silence proves nothing.
type backendTest struct {
	service  *service      // nil: of no running service
	names    lookupFunc    // nil: the system's resolver
	timeout  time.Duration // of the lookup, and of each address
	networks []upstream.Network
	probe    handler.HealthCheck
	kind     string            // the probe in words
	untested map[string]string // reasons, by network
}

// lookupFunc returns the addresses of a name. patience is how long it may take before
// a stale answer is used.
type lookupFunc func(ctx context.Context, host string, patience time.Duration) ([]netip.Addr, error)

// newTest returns the test for the current settings of the service.
func (s *service) newTest() backendTest {
	t := newBackendTest(s.current.Load())
	t.service, t.names = s, s.Lookup
	return t
}

// newBackendTest returns the test for settings. They are nil if no config has the
// service.
func newBackendTest(g *settings) backendTest {
	t := backendTest{timeout: caddyfile.DefaultConnectTimeout, kind: "connect (no health_check)", untested: make(map[string]string)}
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

func (t backendTest) run(ctx context.Context, b *upstream.Backend) api.Test {
	result := api.Test{Backend: b.Text, Check: t.kind, Dials: []api.TestedDial{}, Untested: t.untested}
	if t.service != nil {
		result.Service = t.service.Name
	}
	if t.probe.ProbedPort(b.Port) == 0 && !strings.HasPrefix(b.Host, srvPrefix) { // the lookup of an SRV backend fails below
		result.Error = "it has the port of each client: set health_check.port to a port that can be tested"
		return result
	}
	addrs := []netip.Addr{b.IP}
	if !b.IP.IsValid() {
		began := time.Now()
		var err error
		addrs, err = t.lookup(ctx, b.Host)
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
			dialling.Go(func() { *d = t.dial(ctx, b, n, netip.AddrPortFrom(addr, t.probe.ProbedPort(b.Port))) }) // ends with its timeout at the latest
		}
	}
	dialling.Wait()
	result.OK = true
	for dials := range slices.Chunk(result.Dials, len(addrs)) { // one chunk per network
		result.OK = result.OK && slices.ContainsFunc(dials, func(d api.TestedDial) bool { return d.OK })
	}
	return result
}

func (t backendTest) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.timeout, errTestTimeout)
	defer cancel()
	if t.names == nil {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}
	return t.names(ctx, host, t.timeout)
}

func (t backendTest) dial(ctx context.Context, b *upstream.Backend, n upstream.Network, addr netip.AddrPort) api.TestedDial {
	ctx, cancel := context.WithTimeoutCause(ctx, t.timeout, errTestTimeout)
	defer cancel()
	began := time.Now()
	err := t.probeAddress(ctx, b, n, addr)
	d := api.TestedDial{Network: n.String(), Address: addr.String(), OK: err == nil, Latency: handler.Milliseconds(time.Since(began))}
	if err != nil {
		d.Error = err.Error()
	}
	return d
}

// probeAddress probes one address of a backend.
func (t backendTest) probeAddress(ctx context.Context, b *upstream.Backend, n upstream.Network, addr netip.AddrPort) error {
	if t.service == nil {
		return t.probe.Probe(ctx, n, addr)
	}
	return t.service.Probe(ctx, b, &t.probe, n, addr) // fails as a drill of the backend says
}
