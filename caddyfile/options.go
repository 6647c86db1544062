package caddyfile

import (
	"net/netip"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// Options holds the settings of a relay with every default filled in.
type Options struct {
	Service  string    // name in logs, metrics and the admin API
	Named    bool      // whether the config has a name
	Backends []Backend // in order of preference

	ConnectTimeout      time.Duration
	IdleTimeout         time.Duration
	Cooldown            time.Duration // 0: off
	DNSTTL              DNSLifetime
	Resolvers           []Resolver          // empty: the system's resolver
	Prefer              string              // "ipv4", "ipv6" or "": RFC 6724
	Only                string              // "ipv4", "ipv6" or "": both families
	HealthCheck         *HealthCheckOptions // nil: off
	Failback            Failback            // only with HealthCheck
	EventHook           *EventHookOptions   // nil: off
	Hedge               time.Duration       // 0: off
	OnDownCut           bool                // a demotion takes the backend's clients away from it
	FirstByteTimeout    time.Duration       // 0: off
	Hold                time.Duration       // 0: off
	Rescue              int                 // bytes; 0: off
	UDPReplyTimeout     time.Duration       // 0: off
	UDPResponses        int                 // 0: off
	Allow               []netip.Prefix      // of clients; empty: all. Sorted
	Deny                []netip.Prefix      // of clients, also if they are in Allow. Sorted
	MaxConnections      int                 // 0: no limit
	MaxConnectionsPerIP int                 // 0: no limit
	MaxUDPSessions      int                 // 0: the default of the running relay
	GracePeriod         time.Duration       // 0: no limit
	ShutdownTimeout     time.Duration       // 0: cut at once
	KeepAlive           time.Duration       // 0: off
	AccessLog           string              // "off", "tcp" or "all"
	ProxyProtocol       int                 // version; 0: off
	ProxyProtocolEvery  bool                // header in every datagram, not only in a session's first; only with version 2
}

// Options returns the settings with defaults filled in. The config must be valid
// (see [Config.Validate]). Backends and resolvers that are not valid are left
// out.
func (c Config) Options() Options {
	o := Options{
		Service:             c.Service(),
		Named:               c.Name != "",
		ConnectTimeout:      durationOr(c.ConnectTimeout, DefaultConnectTimeout),
		IdleTimeout:         durationOr(c.IdleTimeout, DefaultIdleTimeout),
		Cooldown:            durationOr(c.Cooldown, 0),
		DNSTTL:              c.DNSTTL.lifetime(),
		Prefer:              c.Prefer,
		Only:                c.Only,
		HealthCheck:         c.HealthCheck.options(),
		Failback:            c.Failback,
		EventHook:           c.EventHook.options(),
		Hedge:               durationOr(c.Hedge, 0),
		Hold:                durationOr(c.Hold, 0),
		OnDownCut:           c.OnDown == "cut",
		FirstByteTimeout:    durationOr(c.FirstByteTimeout, 0),
		Rescue:              intOr(c.Rescue, 0),
		UDPReplyTimeout:     durationOr(c.UDPReplyTimeout, 0),
		UDPResponses:        intOr(c.UDPResponses, 0),
		Allow:               prefixes(c.Allow),
		Deny:                prefixes(c.Deny),
		MaxConnections:      intOr(c.MaxConnections, 0),
		MaxConnectionsPerIP: intOr(c.MaxConnectionsPerIP, 0),
		MaxUDPSessions:      intOr(c.MaxUDPSessions, 0),
		GracePeriod:         durationOr(c.GracePeriod, 0),
		ShutdownTimeout:     durationOr(c.ShutdownTimeout, DefaultShutdownTimeout),
		KeepAlive:           durationOr(c.KeepAlive, DefaultKeepAlive),
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

func durationOr(d *caddy.Duration, def time.Duration) time.Duration {
	if d == nil {
		return def
	}
	return time.Duration(*d)
}

func intOr(n *int, def int) int {
	if n == nil {
		return def
	}
	return *n
}
