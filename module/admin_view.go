package module

import (
	"math"
	"slices"
	"time"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file is what the admin API says of services: its JSON.

// serviceView is a service at one moment.
type serviceView struct {
	Name     string                     `json:"name"`
	Policy   string                     `json:"policy"`
	Removed  bool                       `json:"removed,omitempty"` // from the config; what is left ends
	Backends []backendView              `json:"backends"`          // in queue order
	Active   networkCounts              `json:"active"`
	Totals   totalsView                 `json:"totals"`
	Refused  map[handler.Refusal]uint64 `json:"refused"` // clients, by reason
	Dropped  map[handler.Drop]uint64    `json:"dropped_datagrams"`
	Evicted  uint64                     `json:"evicted_sessions"`
}

// backendView is a backend of a service.
type backendView struct {
	Address    string                 `json:"address"`                       // as configured
	Position   int                    `json:"position,omitempty"`            // in the queue, from 1; none if it was removed from it
	Configured int                    `json:"configured_position,omitempty"` // the same
	State      upstream.State         `json:"state"`                         // the worst of its networks
	Strikes    int                    `json:"strikes"`
	Cooling    time.Time              `json:"cooling_until,omitzero"`
	Networks   map[string]networkView `json:"networks"`
	Addresses  []string               `json:"addresses"` // as the DNS cache has them, old ones too
	Active     networkCounts          `json:"active"`
	Totals     totalsView             `json:"totals"`
	Failure    *failureView           `json:"last_failure,omitempty"`
	Connect    quantilesView          `json:"connect_ms"` // the slower network's
}

// networkView is a backend on TCP or UDP.
type networkView struct {
	State     upstream.State `json:"state"`
	Strikes   int            `json:"strikes"`
	DownSince time.Time      `json:"down_since,omitzero"`
	Cooling   time.Time      `json:"cooling_until,omitzero"`
	Active    int            `json:"active"`
	Totals    totalsView     `json:"totals"`
	Failure   *failureView   `json:"last_failure,omitempty"`
	Connect   quantilesView  `json:"connect_ms"`
}

type networkCounts struct {
	TCP int `json:"tcp"`
	UDP int `json:"udp"`
}

// totalsView is what has passed since the service began.
type totalsView struct {
	Connections uint64 `json:"connections"`
	Failures    uint64 `json:"failures"`
	Demotions   uint64 `json:"demotions"`
	BytesUp     uint64 `json:"bytes_up"`
	BytesDown   uint64 `json:"bytes_down"`
}

func (t *totalsView) add(more totalsView) {
	t.Connections += more.Connections
	t.Failures += more.Failures
	t.Demotions += more.Demotions
	t.BytesUp += more.BytesUp
	t.BytesDown += more.BytesDown
}

type failureView struct {
	At      time.Time `json:"at"`
	Error   string    `json:"error"`
	Address string    `json:"address,omitempty"` // none if the name did not resolve
}

// quantilesView is of the last five minutes, in milliseconds; 0 if nothing was.
type quantilesView struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

// stateRemoved is that of a backend that left the queue and still has relays.
const stateRemoved upstream.State = "removed"

// badness orders the states; the worst network speaks for a backend.
var badness = []upstream.State{upstream.Up, upstream.Struck, upstream.Down, upstream.Cooling, upstream.Draining}

func (s *service) view(now time.Time) serviceView {
	stats := s.Stats(now)
	v := serviceView{
		Name:     s.Name,
		Policy:   "two_strike",
		Removed:  s.current.Load() == nil,
		Backends: []backendView{},
		Active:   networkCounts{stats.Active[upstream.TCP], stats.Active[upstream.UDP]},
		Refused:  make(map[handler.Refusal]uint64),
		Dropped:  stats.Dropped,
		Evicted:  stats.Evicted,
	}
	for _, reasons := range stats.Refused {
		for reason, n := range reasons {
			v.Refused[reason] += n
		}
	}
	for _, b := range stats.Backends {
		backend := s.viewBackend(b)
		v.Totals.add(backend.Totals)
		v.Backends = append(v.Backends, backend)
	}
	for _, gone := range stats.Departed {
		v.Totals.add(totalsView{gone.Connections, gone.Failed, gone.Demotions, gone.BytesUp, gone.BytesDown})
	}
	return v
}

// backend is one backend's view; ok is false if it is no longer there.
func (v serviceView) backend(address string) (b backendView, ok bool) {
	i := slices.IndexFunc(v.Backends, func(b backendView) bool { return b.Address == address })
	if i < 0 {
		return backendView{}, false
	}
	return v.Backends[i], true
}

func (s *service) viewBackend(b handler.BackendStats) backendView {
	v := backendView{
		Address:    b.Backend.Text,
		Position:   b.Position + 1,
		Configured: b.Configured + 1,
		State:      stateRemoved,
		Networks:   make(map[string]networkView),
		Addresses:  s.addressesOf(b.Backend),
		Active:     networkCounts{b.Use[upstream.TCP].Active, b.Use[upstream.UDP].Active},
	}
	for n, status := range b.Networks {
		one := viewNetwork(status, b.Use[n])
		if b.Position < 0 {
			one.State = stateRemoved
		} else if n == 0 || slices.Index(badness, one.State) > slices.Index(badness, v.State) {
			v.State = one.State
		}
		v.Networks[upstream.Network(n).String()] = one
		v.Strikes = max(v.Strikes, one.Strikes)
		if one.Cooling.After(v.Cooling) {
			v.Cooling = one.Cooling
		}
		if one.Failure != nil && (v.Failure == nil || one.Failure.At.After(v.Failure.At)) {
			v.Failure = one.Failure
		}
		v.Totals.add(one.Totals)
		v.Connect.P50 = max(v.Connect.P50, one.Connect.P50)
		v.Connect.P99 = max(v.Connect.P99, one.Connect.P99)
	}
	return v
}

func viewNetwork(status upstream.NetworkStatus, use handler.Use) networkView {
	v := networkView{
		State:     status.State,
		Strikes:   status.Strikes,
		DownSince: status.DownSince,
		Cooling:   status.CoolingUntil,
		Active:    use.Active,
		Totals: totalsView{
			Connections: use.Connections,
			Failures:    status.Failed,
			Demotions:   status.Demotions,
			BytesUp:     use.BytesUp,
			BytesDown:   use.BytesDown,
		},
		Connect: quantilesView{milliseconds(use.Connects.P50), milliseconds(use.Connects.P99)},
	}
	if last := status.LastFailure; !last.At.IsZero() {
		v.Failure = &failureView{At: last.At, Error: last.Error}
		if last.Address.IsValid() {
			v.Failure.Address = last.Address.String()
		}
	}
	return v
}

// addressesOf is where a backend is, as far as that is known. To look is not
// to ask, nor to keep a name in use.
func (s *service) addressesOf(b *upstream.Backend) []string {
	if b.IP.IsValid() {
		return []string{b.IP.String()}
	}
	found := []string{}
	entry, _ := s.names.Load().cache.Entry(b.Host)
	for _, addr := range entry.Addrs {
		found = append(found, addr.String())
	}
	return found
}

// milliseconds are rounded to a thousandth.
func milliseconds(d time.Duration) float64 { return math.Round(d.Seconds()*1e6) / 1e3 }
