// Package caddyfile holds every written form of a relay's settings: the plain
// [Config] with its JSON tags and field documentation, its Caddyfile grammar,
// and the [Adapter] that turns async-relay's YAML files into Caddy's JSON.
//
//	relay example.com:80 192.168.1.10:80 [2001:db8::1]:80 {
//		name web-proxy
//		idle_timeout 10m
//	}
//
// A Config is a value without a life of its own. Whoever runs the relay calls
// [Config.Resolved] to fill in placeholders, [Config.Validate] to have every
// problem reported at once, and [Config.Options] for the settings with their
// defaults filled in, in that order.
package caddyfile
