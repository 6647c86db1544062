package module

import (
	"context"
	"strings"
	"time"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/caddyfile/asyncrelay"
	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/module/api"
	"github.com/async-relay/caddy-relay/module/page"
	"github.com/async-relay/caddy-relay/module/yamlfile"
	"github.com/async-relay/caddy-relay/upstream"
)

// yamlAdapter is the config adapter async-relay, and yamlFiles are the files that it
// has converted for this process.
var (
	yamlAdapter = new(asyncrelay.Adapter)
	yamlFiles   = yamlfile.NewFiles(yamlAdapter, processLog)
)

// pageOriginal gives the live page what async-relay's API needs.
type pageOriginal struct{}

// Status implements page.Original.
func (pageOriginal) Status() api.OriginalStatus {
	now := time.Now()
	status := api.OriginalStatus{Services: []api.OriginalService{}, DNSCache: api.OriginalDNSCache{TTLSeconds: caddyfile.DefaultDNSTTL.Seconds()}}
	for i, entry := range apiDNS(now) {
		status.DNSCache.TotalEntries++
		if i == 0 || entry.TTL > status.DNSCache.TTLSeconds {
			status.DNSCache.TTLSeconds = entry.TTL
		}
	}
	for _, s := range visibleServices() {
		if s.current.Load() != nil {
			status.Services = append(status.Services, s.originalService(now))
		}
	}
	status.TotalServices = len(status.Services)
	return status
}

// originalService describes a service in async-relay's shape.
func (s *service) originalService(now time.Time) api.OriginalService {
	v := api.OriginalService{Name: s.Name, Details: s.apiService(now)}
	if len(v.Details.Listen) > 0 {
		_, v.Listen, _ = strings.Cut(v.Details.Listen[0], "/")
	}
	stats := s.Stats(now)
	tcp, udp := stats.Departed[upstream.TCP].Totals, stats.Departed[upstream.UDP].Totals
	v.Pool = api.OriginalPool{Service: s.Name, HealthCheckEnabled: v.Details.Check != "", Backends: []api.OriginalBackend{}}
	for _, b := range stats.Backends {
		addTotals(&tcp, b.Use[upstream.TCP].Totals)
		addTotals(&udp, b.Use[upstream.UDP].Totals)
		if b.Position < 0 {
			continue // left the config, and has relays
		}
		shown := s.apiBackend(b)
		v.Pool.Backends = append(v.Pool.Backends, api.OriginalBackend{
			Position: b.Position, Host: b.Backend.Host, Port: b.Backend.Port, ResolvedIPs: shown.Addresses,
			Failures: shown.Strikes, OriginalIndex: b.Configured,
			State: shown.State, Cooling: shown.Cooling, Failure: shown.Failure,
		})
	}
	v.Pool.TotalBackends = len(v.Pool.Backends)
	v.Stats = api.OriginalStats{
		TCPConnections: tcp.Connections, TCPActive: stats.Active[upstream.TCP], TCPBytesSent: tcp.BytesUp, TCPBytesReceived: tcp.BytesDown,
		UDPPackets: udp.DatagramsUp, UDPBytesSent: udp.BytesUp, UDPBytesReceived: udp.BytesDown, UDPActive: stats.Active[upstream.UDP],
	}
	return v
}

func addTotals(sum *handler.Totals, more handler.Totals) {
	sum.Connections += more.Connections
	sum.BytesUp += more.BytesUp
	sum.BytesDown += more.BytesDown
	sum.DatagramsUp += more.DatagramsUp
	sum.DatagramsDown += more.DatagramsDown
}

// Test implements page.Original.
func (pageOriginal) Test(ctx context.Context, service, address string) (api.Test, error) {
	return testAddress(ctx, service, address)
}

// Health implements page.Original.
func (pageOriginal) Health(services []string) api.Health { return health(services, time.Now()) }

// Interface guard.
var _ page.Original = pageOriginal{}
