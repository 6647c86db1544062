package module

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/module/api"
	"github.com/async-relay/caddy-relay/upstream"
)

// testOffline tests a backend of a relay that does not run in this process. It is the
// [doctor.Tester] of the command.
func testOffline(ctx context.Context, relay caddyfile.Options, networks []string, backend caddyfile.Backend) api.Test {
	g := newSettings(relay, nil, zap.NewNop())
	for _, n := range []upstream.Network{upstream.TCP, upstream.UDP} {
		if slices.Contains(networks, n.String()) {
			g.listened.networks = append(g.listened.networks, n)
		}
	}
	names := newDNSClient(relay)
	defer names.Close()
	t := newBackendTest(g)
	t.names = func(ctx context.Context, host string, _ time.Duration) ([]netip.Addr, error) {
		answer, err := names.Addrs(ctx, host)
		return answer.List, err
	}
	address := upstream.Address{Text: backend.Text, Host: backend.Host, Port: backend.Port, IP: backend.Addr}
	if backend.SRV != "" {
		ctx, cancel := context.WithTimeout(ctx, t.timeout)
		defer cancel()
		targets, _, err := names.Targets(ctx, backend.SRV)
		if err != nil {
			return api.Test{Service: relay.Service, Backend: backend.Text, Check: t.kind, Dials: []api.TestedDial{}, Error: err.Error()}
		}
		address.Host, address.Port = targets[0].Host, targets[0].Port // the preferred one stands for all
	}
	result := t.run(ctx, &upstream.Backend{Address: address})
	result.Service = relay.Service
	return result
}
