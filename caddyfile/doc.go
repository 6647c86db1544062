// Package caddyfile defines the settings of a relay: the plain [Config] with its JSON
// tags and field documentation, and its Caddyfile grammar. The grammar is one table
// of options. Flags of commands, keys of YAML files and the writer of Caddyfiles use
// the same table, through [AllOptions] and [Config.Set]. Package
// caddyfile/asyncrelay reads YAML files. The package is part of caddy-relay and
// promises no API to other modules.
//
//	relay example.com:80 192.168.1.10:80 [2001:db8::1]:80 {
//		name web-proxy
//		idle_timeout 10m
//	}
//
// A Config is a plain value and starts nothing. To run a relay, call these
// methods in this order: [Config.Resolved] replaces placeholders,
// [Config.Validate] reports all problems at once, and [Config.Options] returns
// the settings with their defaults filled in.
package caddyfile
