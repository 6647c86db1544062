package caddyfile

import (
	"encoding/json"
	"strings"
)

// The part of Caddy's JSON that the adapter writes. Durations are text, so that
// the output of "caddy adapt" is readable.
type (
	caddyJSON struct {
		Apps appsJSON `json:"apps"`
	}
	appsJSON struct {
		Layer4 layer4JSON `json:"layer4"`
	}
	layer4JSON struct {
		Servers map[string]serverJSON `json:"servers"`
	}
	serverJSON struct {
		Listen []string    `json:"listen"`
		Routes []routeJSON `json:"routes"`
	}
	routeJSON struct {
		Handle []relayJSON `json:"handle"`
	}
	relayJSON struct {
		Handler  string   `json:"handler"`
		Name     string   `json:"name"`
		Backends []string `json:"backends"`
		Cooldown string   `json:"cooldown"`

		HealthCheck *healthCheckJSON `json:"health_check,omitempty"`
		EventHook   *eventHookJSON   `json:"event_hook,omitempty"`
	}
	healthCheckJSON struct {
		Interval string `json:"interval"`
		Timeout  string `json:"timeout"`
	}
	eventHookJSON struct {
		Command string   `json:"command"`
		Args    []string `json:"args,omitempty"`
		Events  []string `json:"events"`
		Timeout string   `json:"timeout"`
	}
)

// braceEscaper escapes braces, which would otherwise be placeholders. The YAML
// files have no placeholders.
var braceEscaper = strings.NewReplacer("{", `\{`, "}", `\}`)

// emit returns the Caddy config of the services as JSON.
func emit(services []service) ([]byte, error) {
	servers := make(map[string]serverJSON, len(services))
	for _, s := range services {
		servers[s.name] = serverJSON{
			Listen: s.listenAddresses(),
			Routes: []routeJSON{{Handle: []relayJSON{{
				Handler:  "relay",
				Name:     braceEscaper.Replace(s.name),
				Backends: s.backends,
				Cooldown: duration(s.cooldown),

				HealthCheck: s.health,
				EventHook:   s.hook,
			}}}},
		}
	}
	return json.Marshal(caddyJSON{appsJSON{layer4JSON{servers}}})
}
