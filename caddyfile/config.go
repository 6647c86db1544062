package caddyfile

import (
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

	DefaultHealthInterval = time.Minute
	DefaultHealthTimeout  = 5 * time.Second
	DefaultHealthRise     = 2

	DefaultHookTimeout = 30 * time.Second
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

	// Probes of all backends at regular times, so that a dead one is found
	// before a client runs into it, and one that is back before it is needed.
	// Their failures and successes count like those of clients. Default: off;
	// an empty object turns them on.
	HealthCheck *HealthCheck `json:"health_check,omitempty"`

	// Whether a backend that was found well by as many probes in a row as
	// health_check.rise says returns to its configured place. Needs
	// health_check. Default: false: a backend that went to the end of the
	// queue comes forward only as those before it fail.
	Failback bool `json:"failback,omitempty"`

	// A command to run when a backend fails or recovers. Default: off.
	EventHook *EventHook `json:"event_hook,omitempty"`

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

	// How many relays the service may have at once, TCP connections and UDP
	// sessions together; a client beyond that is refused, and counted.
	// Default: 0, which is no bound.
	MaxConnections *int `json:"max_connections,omitempty"`

	// The same for the relays of one client address. Default: 0, which is no
	// bound.
	MaxConnectionsPerIP *int `json:"max_connections_per_ip,omitempty"`

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

	// Which relays get a line in the access log at their end: `off`, `tcp` or
	// `all`, which is UDP sessions too. Default: off.
	AccessLog string `json:"access_log,omitempty"`

	// The version of the PROXY protocol in which a backend is told who the
	// client is: `off`, `v1` or `v2`. The backend must expect it. A TCP
	// connection to the backend begins with the header, a datagram has it
	// ahead of its payload. v1 has no form for UDP: with it UDP sessions get
	// no header. Default: off.
	ProxyProtocol string `json:"proxy_protocol,omitempty"`

	// Which datagrams of a UDP session carry the header: the `first`, or
	// `every` one. Needs proxy_protocol v2. Default: first.
	ProxyProtocolUDP string `json:"proxy_protocol_udp,omitempty"`
}

// Service is the name of the service, or its backends where it has none.
func (c Config) Service() string {
	if c.Name != "" {
		return c.Name
	}
	return strings.Join(c.Backends, ",")
}
