// Package relay is a Caddy plugin: a TCP and UDP relay with failover over an
// ordered list of backends, and a DNS cache.
//
// Importing it registers the handler layer4.handlers.relay and the config
// adapter async-relay, and caddy-l4 with all its handlers and matchers. That is
// what `xcaddy build --with` does. The package promises no API.
package relay

import (
	_ "github.com/mholt/caddy-l4" // the layer4 app with its handlers and matchers

	_ "github.com/async-relay/caddy-relay/module" // registers the relay
)
