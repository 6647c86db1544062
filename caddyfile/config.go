package caddyfile

import (
	"net/netip"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// Defaults of the settings that are not off when they are left out.
const (
	DefaultConnectTimeout = 5 * time.Second
	DefaultIdleTimeout    = 5 * time.Minute
	DefaultDNSTTL         = time.Hour

	DefaultShutdownTimeout = 10 * time.Second
)

// Config holds the settings of one relay as they are written. Only backends
// must be given. Durations are written as "5s", "10m", "1h" or "1d"; settings
// that may be absent are pointers, because absent and zero differ.
type Config struct {
	// The name of the service in logs, metrics and the admin API, and the
	// identity of its pool of backends across config reloads: relays of one
	// name share one pool and must have the same settings. Default: the
	// backends joined by ",". A relay without a name is identified by all its
	// settings together and starts afresh when one changes, so name what you
	// want to keep through edits. May contain `{env.*}` and `{file.*}`
	// placeholders.
	Name string `json:"name,omitempty"`

	// The backends in order of preference: at least one, none twice, each
	// `host:port`, `ipv4:port` or `[ipv6]:port` with a port from 1 to 65535.
	// A TCP client is relayed to the TCP port and a UDP client to the UDP port
	// of the same backend, so no network is written in front. May contain
	// `{env.*}` and `{file.*}` placeholders, which are resolved when the
	// config is loaded.
	Backends []string `json:"backends,omitempty"`

	// How long one attempt on one backend may take, the lookup of its name
	// included, over all of its addresses. Must be greater than zero.
	// Default: 5s.
	ConnectTimeout *caddy.Duration `json:"connect_timeout,omitempty"`

	// A relay ends when no byte or datagram has passed in either direction for
	// this long; traffic in one direction keeps both alive. Must be greater
	// than zero. Default: 5m.
	IdleTimeout *caddy.Duration `json:"idle_timeout,omitempty"`

	// How long a backend is passed over after its second failure in a row,
	// as long as there is another one to try. Default: 0, which is off: the
	// backend only moves to the end of the queue.
	Cooldown *caddy.Duration `json:"cooldown,omitempty"`

	// How long the addresses of a backend's name are used before it is looked
	// up again. A failing backend is looked up afresh at once, whatever is
	// left of this time. Must be greater than zero. Default: 1h.
	DNSTTL *caddy.Duration `json:"dns_ttl,omitempty"`

	// DNS servers to ask for the names of backends, each `ip` or `ip:port`;
	// the port is 53 unless given. Default: the resolver of the system. May
	// contain `{env.*}` and `{file.*}` placeholders.
	Resolvers []string `json:"resolvers,omitempty"`

	// A UDP backend that was sent datagrams and has answered none of them for
	// this long has failed that attempt, and the datagrams go to the next one.
	// For services that always answer. Default: 0, which is off: only an error
	// reported by the network is a failure.
	UDPReplyTimeout *caddy.Duration `json:"udp_reply_timeout,omitempty"`

	// A UDP session ends after this many answers from the backend to each
	// datagram of the client, as nginx's proxy_responses counts them; 1 suits
	// DNS, also where a client asks twice from one port. Default: 0, which is
	// off: sessions end by idle_timeout.
	UDPResponses *int `json:"udp_responses,omitempty"`

	// How many UDP sessions there may be at once, 1 or more; when there are
	// that many, a new client takes the place of the longest idle. Default:
	// the least of 65536, 80 % of the system's ephemeral ports and half its
	// limit of open files.
	MaxUDPSessions *int `json:"max_udp_sessions,omitempty"`

	// How long the relays of a service may go on after a reload took the
	// service out of the config; then they are cut. Default: 0, which lets
	// them finish.
	GracePeriod *caddy.Duration `json:"grace_period,omitempty"`

	// How long relays may go on after Caddy was told to stop, while nobody new
	// is served; then they are cut. 0 cuts at once. Default: 10s.
	ShutdownTimeout *caddy.Duration `json:"shutdown_timeout,omitempty"`
}

// Options are the settings of a relay with every default filled in.
type Options struct {
	Service  string    // name in logs, metrics and the admin API
	Named    bool      // whether the service was given a name
	Backends []Backend // in order of preference

	ConnectTimeout  time.Duration
	IdleTimeout     time.Duration
	Cooldown        time.Duration // 0: off
	DNSTTL          time.Duration
	Resolvers       []netip.AddrPort // none: the system's
	UDPReplyTimeout time.Duration    // 0: off
	UDPResponses    int              // 0: off
	MaxUDPSessions  int              // 0: let the relay decide
	GracePeriod     time.Duration    // 0: let them finish
	ShutdownTimeout time.Duration    // 0: cut at once
}

// Service is the name of the service, or its backends where it has none.
func (c Config) Service() string {
	if c.Name != "" {
		return c.Name
	}
	return strings.Join(c.Backends, ",")
}

// Options fills in the defaults. The config must be one that
// [Config.Validate] finds no fault with; text it would refuse is left out.
func (c Config) Options() Options {
	o := Options{
		Service:         c.Service(),
		Named:           c.Name != "",
		ConnectTimeout:  orDefault(c.ConnectTimeout, DefaultConnectTimeout),
		IdleTimeout:     orDefault(c.IdleTimeout, DefaultIdleTimeout),
		Cooldown:        orDefault(c.Cooldown, 0),
		DNSTTL:          orDefault(c.DNSTTL, DefaultDNSTTL),
		UDPReplyTimeout: orDefault(c.UDPReplyTimeout, 0),
		GracePeriod:     orDefault(c.GracePeriod, 0),
		ShutdownTimeout: orDefault(c.ShutdownTimeout, DefaultShutdownTimeout),
	}
	if c.UDPResponses != nil {
		o.UDPResponses = *c.UDPResponses
	}
	if c.MaxUDPSessions != nil {
		o.MaxUDPSessions = *c.MaxUDPSessions
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
