package module

import (
	"time"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/module/api"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file converts the state of services into responses of the admin API.

func (s *service) apiService(now time.Time) api.Service {
	stats := s.Stats(now)
	v := api.Service{
		Name:     s.Name,
		Policy:   "two_strike",
		Removed:  s.current.Load() == nil,
		Backends: []api.Backend{},
		Active:   api.Active{TCP: stats.Active[upstream.TCP], UDP: stats.Active[upstream.UDP]},
		Refused:  make(map[string]uint64),
		Dropped:  make(map[string]uint64),
		Evicted:  stats.Evicted,
		Held:     stats.Held,
		HeldTill: stats.HeldUntil,
	}
	if current := s.current.Load(); current != nil {
		v.Check = current.describeCheck()
		v.Listen = current.listened.addrs
		for _, n := range current.listened.networks {
			v.Networks = append(v.Networks, n.String())
		}
	}
	for _, reasons := range stats.Refused {
		for reason, n := range reasons {
			v.Refused[string(reason)] += n
		}
	}
	for reason, n := range stats.Dropped {
		v.Dropped[string(reason)] = n
	}
	for _, b := range stats.Backends {
		backend := s.apiBackend(b)
		v.Totals.Add(backend.Totals)
		v.Backends = append(v.Backends, backend)
	}
	for _, departed := range stats.Departed {
		v.Totals.Add(api.Totals{
			Connections: departed.Connections,
			Failures:    departed.Failed,
			Demotions:   departed.Demotions,
			BytesUp:     departed.BytesUp,
			BytesDown:   departed.BytesDown,
		})
	}
	return v
}

// apiBackend combines the networks of a backend: the worst state, the latest
// failure, and the times of the slower network.
func (s *service) apiBackend(b handler.BackendStats) api.Backend {
	v := api.Backend{
		Address:    b.Backend.Text,
		Position:   b.Position + 1,
		Configured: b.Configured + 1,
		Networks:   make(map[string]api.Network),
		Addresses:  s.cachedAddresses(b.Backend),
		Drill:      string(b.Drill),
		Active:     api.Active{TCP: b.Use[upstream.TCP].Active, UDP: b.Use[upstream.UDP].Active},
	}
	if b.Drill != "" {
		if receipt, ok := s.Drill(b.Backend); ok {
			v.DrillEnds = receipt.Ends
		}
	}
	for i, status := range b.Networks {
		n := apiNetwork(status, b.Use[i])
		if b.Position < 0 {
			n.State = api.StateRemoved
		}
		if n.State.Worse(v.State) {
			v.State = n.State
		}
		v.Networks[upstream.Network(i).String()] = n
		v.Strikes = max(v.Strikes, n.Strikes)
		if n.Cooling.After(v.Cooling) {
			v.Cooling = n.Cooling
		}
		if n.Failure != nil && (v.Failure == nil || n.Failure.At.After(v.Failure.At)) {
			v.Failure = n.Failure
		}
		v.Totals.Add(n.Totals)
		v.Connect.P50 = max(v.Connect.P50, n.Connect.P50)
		v.Connect.P99 = max(v.Connect.P99, n.Connect.P99)
	}
	return v
}

func apiNetwork(status upstream.NetworkStatus, use handler.Use) api.Network {
	v := api.Network{
		State:     api.State(status.State),
		Strikes:   status.Strikes,
		ByCheck:   status.ByCheck,
		Suspect:   status.Suspect,
		DownSince: status.DownSince,
		Cooling:   status.CoolingUntil,
		Active:    use.Active,
		Totals: api.Totals{
			Connections: use.Connections,
			Failures:    status.Failed,
			Demotions:   status.Demotions,
			BytesUp:     use.BytesUp,
			BytesDown:   use.BytesDown,
		},
		Connect: api.Quantiles{P50: handler.Milliseconds(use.Connects.P50), P99: handler.Milliseconds(use.Connects.P99)},
	}
	if last := status.LastFailure; !last.At.IsZero() {
		v.Failure = &api.Failure{At: last.At, Error: last.Error}
		if last.Address.IsValid() {
			v.Failure.Address = last.Address.String()
		}
	}
	return v
}

// cachedAddresses returns the addresses of a backend as far as they are known.
// It neither queries DNS nor marks the name as used.
func (s *service) cachedAddresses(b *upstream.Backend) []string {
	if b.IP.IsValid() {
		return []string{b.IP.String()}
	}
	found := []string{}
	entry, _ := s.dns.Load().cache.Entry(b.Host)
	for _, addr := range entry.Addrs {
		found = append(found, addr.String())
	}
	return found
}
