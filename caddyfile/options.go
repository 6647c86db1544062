package caddyfile

import (
	"net/netip"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// Options are the settings of a relay with every default filled in.
type Options struct {
	Service  string    // name in logs, metrics and the admin API
	Named    bool      // whether the service was given a name
	Backends []Backend // in order of preference

	ConnectTimeout      time.Duration
	IdleTimeout         time.Duration
	Cooldown            time.Duration // 0: off
	DNSTTL              time.Duration
	Resolvers           []netip.AddrPort    // none: the system's
	HealthCheck         *HealthCheckOptions // nil: off
	Failback            bool                // only with HealthCheck
	EventHook           *EventHookOptions   // nil: off
	UDPReplyTimeout     time.Duration       // 0: off
	UDPResponses        int                 // 0: off
	MaxConnections      int                 // 0: no bound
	MaxConnectionsPerIP int                 // 0: no bound
	MaxUDPSessions      int                 // 0: let the relay decide
	GracePeriod         time.Duration       // 0: let them finish
	ShutdownTimeout     time.Duration       // 0: cut at once
	AccessLog           string              // "off", "tcp" or "all"
	ProxyProtocol       int                 // version, 0: off
	ProxyProtocolEvery  bool                // every datagram, not just a session's first; only with version 2
}

// Options fills in the defaults. The config must be one that
// [Config.Validate] finds no fault with; text it would refuse is left out.
func (c Config) Options() Options {
	o := Options{
		Service:             c.Service(),
		Named:               c.Name != "",
		ConnectTimeout:      orDefault(c.ConnectTimeout, DefaultConnectTimeout),
		IdleTimeout:         orDefault(c.IdleTimeout, DefaultIdleTimeout),
		Cooldown:            orDefault(c.Cooldown, 0),
		DNSTTL:              orDefault(c.DNSTTL, DefaultDNSTTL),
		HealthCheck:         c.HealthCheck.options(),
		Failback:            c.Failback,
		EventHook:           c.EventHook.options(),
		UDPReplyTimeout:     orDefault(c.UDPReplyTimeout, 0),
		UDPResponses:        countOr(c.UDPResponses, 0),
		MaxConnections:      countOr(c.MaxConnections, 0),
		MaxConnectionsPerIP: countOr(c.MaxConnectionsPerIP, 0),
		MaxUDPSessions:      countOr(c.MaxUDPSessions, 0),
		GracePeriod:         orDefault(c.GracePeriod, 0),
		ShutdownTimeout:     orDefault(c.ShutdownTimeout, DefaultShutdownTimeout),
		AccessLog:           c.AccessLog,
		ProxyProtocolEvery:  c.ProxyProtocolUDP == "every",
	}
	if o.AccessLog == "" {
		o.AccessLog = "off"
	}
	switch c.ProxyProtocol {
	case "v1":
		o.ProxyProtocol = 1
	case "v2":
		o.ProxyProtocol = 2
	}
	for _, text := range c.Backends {
		if b, err := ParseBackend(text); err == nil {
			o.Backends = append(o.Backends, b)
		}
	}
	for _, text := range c.Resolvers {
		if r, err := parseResolver(text); err == nil {
			o.Resolvers = append(o.Resolvers, r)
		}
	}
	return o
}

func orDefault(d *caddy.Duration, def time.Duration) time.Duration {
	if d == nil {
		return def
	}
	return time.Duration(*d)
}

func countOr(n *int, def int) int {
	if n == nil {
		return def
	}
	return *n
}
