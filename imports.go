// Package relay is a Caddy plugin that relays TCP and UDP to an ordered list
// of backends, fails over by a two-strike rule and keeps an hourly DNS cache.
//
// Importing it registers the handler layer4.handlers.relay and the config
// adapter async-relay; `xcaddy build --with` needs no more. It brings caddy-l4
// with all its handlers and matchers.
package relay

import (
	_ "github.com/mholt/caddy-l4" // the layer4 app, and what else a route may want

	_ "github.com/async-relay/caddy-relay/module" // registers the relay
)
