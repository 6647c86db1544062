package module

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/module/api"
	"github.com/async-relay/caddy-relay/resolver"
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
	names := resolver.New(resolver.Config{TTL: relay.DNSTTL, Servers: relay.Resolvers})
	defer names.Close()
	t := newBackendTest(g)
	t.names = func(ctx context.Context, host string, patience time.Duration) ([]netip.Addr, error) {
		answer, err := names.Lookup(ctx, host, patience)
		return answer.Addrs, err
	}
	result := t.run(ctx, &upstream.Backend{Address: upstream.Address{Text: backend.Text, Host: backend.Host, Port: backend.Port, IP: backend.Addr}})
	result.Service = relay.Service
	return result
}
