package caddyfile

import (
	"encoding/json"
	"strings"
)

// The part of Caddy's JSON that a file becomes. Durations are text, which is
// what a person reads who looks at the result.
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

// literal keeps braces from being read as placeholders, which
// these files do not have.
var literal = strings.NewReplacer("{", `\{`, "}", `\}`)

func emit(services []service) ([]byte, error) {
	servers := make(map[string]serverJSON, len(services))
	for _, s := range services {
		servers[s.name] = serverJSON{
			Listen: s.networks(),
			Routes: []routeJSON{{Handle: []relayJSON{{
				Handler:  "relay",
				Name:     literal.Replace(s.name),
				Backends: s.backends,
				Cooldown: duration(s.cooldown),

				HealthCheck: s.health,
				EventHook:   s.hook,
			}}}},
		}
	}
	return json.Marshal(caddyJSON{appsJSON{layer4JSON{servers}}})
}
