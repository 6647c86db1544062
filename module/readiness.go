package module

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/async-relay/caddy-relay/module/api"
	"github.com/async-relay/caddy-relay/upstream"
)

// unprobedDown is how long a failure counts against a backend that no health check
// probes. Only clients can find that it has recovered. If a load balancer sent none
// because of the failure, the failure would stand for ever.
const unprobedDown = time.Minute

// getHealth handles GET /relay/health.
func getHealth(r *http.Request) (any, error) {
	return health(r.URL.Query()["service"], time.Now()), nil
}

// health reports whether the services are ready for clients, judged from what is
// known. It contacts no backend. names are the services to report on; none: all
// services of the running config.
func health(names []string, now time.Time) api.Health {
	h := api.Health{Reasons: []api.Reason{}}
	switch {
	case caddy.Exiting():
		h.Reasons = append(h.Reasons, api.Reason{Reason: api.ReasonStopping, Message: "the process is stopping and takes no new clients"})
	case !anyRunning():
		h.Reasons = append(h.Reasons, api.Reason{Reason: api.ReasonNotRunning, Message: "no config with a relay is running"})
	default:
		found := make(map[string]bool)
		for _, s := range visibleServices() {
			g := s.current.Load()
			if g == nil || len(names) > 0 && !slices.Contains(names, s.Name) {
				continue
			}
			found[s.Name] = true
			h.Reasons = append(h.Reasons, s.unready(g, now)...)
		}
		for _, name := range names {
			if !found[name] {
				h.Reasons = append(h.Reasons, api.Reason{Reason: api.ReasonUnknown, Service: name, Message: fmt.Sprintf("the running config has no service %q", name)})
			}
		}
	}
	h.OK = len(h.Reasons) == 0
	return h
}

// anyRunning reports whether a config with a relay has started.
func anyRunning() bool {
	turn.mu.Lock()
	defer turn.mu.Unlock()
	return turn.current != nil
}

// unready returns the reasons for not sending clients to the service.
func (s *service) unready(g *settings, now time.Time) (reasons []api.Reason) {
	backends := s.Pool.Snapshot(now)
	drained := 0
	for _, b := range backends {
		if b.Networks[upstream.TCP].State == upstream.Draining { // a backend is drained on both networks
			drained++
		}
	}
	if drained == len(backends) {
		return []api.Reason{{Reason: api.ReasonAllDrained, Service: s.Name, Message: "all backends are drained"}}
	}
	for _, n := range []upstream.Network{upstream.TCP, upstream.UDP} {
		if !g.listened.has(n) {
			continue
		}
		probed := g.check != nil && g.check.Probes(n)
		if !slices.ContainsFunc(backends, func(b upstream.Status) bool { return available(b.Networks[n], probed, now) }) {
			reasons = append(reasons, api.Reason{
				Reason: api.ReasonNoAvailable, Service: s.Name, Network: n.String(),
				Message: "no backend is available: " + describeStates(backends, n),
			})
		}
	}
	return reasons
}

// available reports whether a backend is expected to serve a new client of a
// network. probed tells whether a health check probes it on that network.
func available(status upstream.NetworkStatus, probed bool, now time.Time) bool {
	switch status.State {
	case upstream.Up, upstream.Struck:
		return true
	case upstream.Draining:
		return false
	default:
		return !probed && now.Sub(status.LastFailure.At) >= unprobedDown
	}
}

// describeStates lists backends with their states, in the order of the queue.
func describeStates(backends []upstream.Status, n upstream.Network) string {
	texts := make([]string, len(backends))
	for i, b := range backends {
		texts[i] = b.Backend.Text + " " + string(b.Networks[n].State)
	}
	return strings.Join(texts, ", ")
}
