// Package chaos tests relays on networks with faults: filters that hold packets,
// forged ICMP errors, hosts that are switched off, firewalls that reject. The
// networks come from [github.com/async-relay/caddy-relay/internal/relaytest/lab].
package chaos
