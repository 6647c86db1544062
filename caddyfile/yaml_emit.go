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
		Listen      []string    `json:"listen"`
		Routes      []routeJSON `json:"routes"`
		IdleTimeout string      `json:"idle_timeout,omitempty"`
	}
	routeJSON struct {
		Handle []relayJSON `json:"handle"`
	}
	relayJSON struct {
		Handler  string   `json:"handler"`
		Name     string   `json:"name"`
		Backends []string `json:"backends"`
		Cooldown string   `json:"cooldown"`
	}
)

// literal keeps the braces of a name from being read as placeholders, which
// these files do not have.
var literal = strings.NewReplacer("{", `\{`, "}", `\}`)

func emit(services []service) ([]byte, error) {
	servers := make(map[string]serverJSON, len(services))
	for _, s := range services {
		server := serverJSON{
			Listen: s.networks(),
			Routes: []routeJSON{{Handle: []relayJSON{{
				Handler:  "relay",
				Name:     literal.Replace(s.name),
				Backends: s.backends,
				Cooldown: duration(s.cooldown),
			}}}},
		}
		if s.udp {
			// The server would cut a session after 30 seconds without a
			// datagram from the client, whatever the relay allows.
			server.IdleTimeout = duration(DefaultIdleTimeout)
		}
		servers[s.name] = server
	}
	return json.Marshal(caddyJSON{appsJSON{layer4JSON{servers}}})
}
