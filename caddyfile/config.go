package caddyfile

import (
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// The defaults of the settings that are on when they are absent.
const (
	DefaultConnectTimeout = 5 * time.Second
	DefaultIdleTimeout    = 5 * time.Minute
	DefaultDNSTTL         = time.Hour

	DefaultShutdownTimeout = 10 * time.Second
	DefaultKeepAlive       = 15 * time.Second

	DefaultHealthInterval = time.Minute
	DefaultHealthTimeout  = 5 * time.Second
	DefaultHealthRise     = 2

	DefaultHookTimeout = 30 * time.Second
)

// Config holds the settings of one relay as they are written. Only backends are
// required. Durations are written as "5s", "10m", "1h" or "1d". They are at least
// 1ms and at most 100 years. In JSON, a number without a unit is in nanoseconds. A
// setting whose zero differs from its absence is a pointer.
type Config struct {
	// The name of the service. It appears in logs, metrics and the admin API,
	// and it identifies the pool of backends across config reloads. Relays with
	// the same name share one pool and must have the same settings. Default:
	// the backends joined by ",". A relay without a name is identified by all
	// its settings together and loses its state when one of them changes, so
	// set a name to keep the state. May contain `{env.*}` and `{file.*}`
	// placeholders.
	Name string `json:"name,omitempty"`

	// The backends in order of preference: at least one, without duplicates.
	// Each is `host:port`, `ipv4:port` or `[ipv6]:port` with a port from 1 to
	// 65535. In `host:{port}`, the port is the one that the client addressed,
	// for ranges of ports. `srv/NAME` stands for the targets of the SRV records
	// of NAME, in the order of priority and then weight. A network prefix such as
	// `tcp/` is not allowed: TCP clients are
	// relayed over TCP and UDP clients over UDP. May contain `{env.*}` and
	// `{file.*}` placeholders, which are resolved when the config is loaded.
	Backends []string `json:"backends,omitempty"`

	// The time limit of one attempt on one backend, including the lookup of its
	// name and all of its addresses. Must be greater than zero. Default: 5s.
	ConnectTimeout *caddy.Duration `json:"connect_timeout,omitempty"`

	// A relay ends when no byte or datagram has passed in either direction for
	// this long. Traffic in one direction keeps both alive. Must be greater
	// than zero. Default: 5m.
	IdleTimeout *caddy.Duration `json:"idle_timeout,omitempty"`

	// How long a backend is passed over after its second strike. Cooling
	// backends are still tried, longest-cooled first, when a client has no
	// other backend left. Default: 0 (off), which only moves the backend to
	// the end of the queue.
	Cooldown *caddy.Duration `json:"cooldown,omitempty"`

	// How long the addresses of a backend's name are used before the name is
	// looked up again: a duration of at least 1s, or `record` for the TTL of the
	// DNS records. `record MIN MAX` sets the bounds of that TTL (default: 5s and
	// 1h). Names in use are looked up before that time ends. After a failed
	// attempt a name is looked up at once, whatever its age. Default: 1h.
	DNSTTL DNSTTL `json:"dns_ttl,omitzero"`

	// The DNS servers to query for the names of backends: `ip` or `ip:port` (UDP
	// and TCP, default port 53), `tls://host[:port][#name]` (DNS over TLS, default
	// port 853, with the name in its certificate if that is not the host) or
	// `https://host[:port]/path` (DNS over HTTPS). If the first one does not
	// answer within 200 ms, the next one is queried in parallel. Default: the
	// system's resolver. May contain `{env.*}` and `{file.*}` placeholders.
	Resolvers []string `json:"resolvers,omitempty"`

	// Which addresses of a name are tried first: `ipv4` or `ipv6`. Default: in the
	// order of RFC 6724, which begins with IPv6 where this machine has it.
	Prefer string `json:"prefer,omitempty"`

	// Which addresses of a name are looked up and tried: only `ipv4` or only
	// `ipv6`. Backends that are addresses are not affected. Default: both.
	Only string `json:"only,omitempty"`

	// Probes all backends at regular intervals. A failed backend is thus found
	// before a client is sent to it, and a recovered one before it is needed.
	// Failures and successes of probes count like those of clients. Default:
	// off. An empty object turns health checks on with their defaults.
	HealthCheck *HealthCheck `json:"health_check,omitempty"`

	// Whether a demoted backend returns to its configured place after
	// health_check.rise successful probes in a row: false, true or "move". With
	// "move" it then also takes over the clients of the backends behind it:
	// their TCP connections are reset, and their UDP sessions move with the next
	// datagram. Requires health_check. Default: false, which moves a demoted
	// backend forward only as those before it fail.
	Failback Failback `json:"failback,omitempty"`

	// A command to run when a backend fails or recovers. Default: off.
	EventHook *EventHook `json:"event_hook,omitempty"`

	// TCP: when an attempt has had no result for this long, the next backend is
	// dialled in parallel, and the first of the two to connect serves the
	// client. A client has at most two attempts under way, and each further
	// one starts after another hedge. Strikes are the same as without hedge:
	// the slow attempt is judged by its own outcome. At least 10ms. Default: 0
	// (off), where the next backend is dialled when an attempt has failed.
	Hedge *caddy.Duration `json:"hedge,omitempty"`

	// TCP: a backend that has accepted a connection and sends nothing for this
	// long after the first bytes of the client has failed that attempt. With
	// rescue, the client is then sent to the next backend; without it, its
	// connection is reset. A client that sends more than rescue (64 KiB
	// without it) before the first answer is not watched any longer. Default:
	// 0 (off).
	FirstByteTimeout *caddy.Duration `json:"first_byte_timeout,omitempty"`

	// TCP: how many bytes of a client, at most 1 MiB, are kept until its
	// backend has sent its first byte. A backend that resets or closes the
	// connection before that byte, or misses first_byte_timeout, has failed
	// the attempt, and the kept bytes are sent to the next backend. A request
	// may thus run twice. A client that sends more stays with its backend. In
	// a Caddyfile, units such as `16KiB` are allowed. Default: 0 (off).
	Rescue *int `json:"rescue,omitempty"`

	// A client that no backend accepts waits this long for one to recover,
	// instead of being refused at once. TCP: its bytes stay unread, and all
	// backends are dialled every 25 ms. UDP: its datagrams are queued, and one
	// that a client has sent is sent to all backends every 25 ms, so a backend
	// may get it more than once. Default: 0 (off).
	Hold *caddy.Duration `json:"hold,omitempty"`

	// What a demotion does to the clients that the backend still serves.
	// `keep`: they stay. `cut`: TCP relays are ended with a RST, so that the
	// clients come back to another backend, and UDP sessions move to another
	// backend with their next datagram. Default: `keep`.
	OnDown string `json:"on_down,omitempty"`

	// A UDP backend that was sent datagrams and has answered none of them for
	// this long has failed that attempt. Its unanswered datagrams are then sent
	// again, first to the same backend and then to the next one. Set it only
	// for services that always answer. Default: 0 (off), where only errors
	// reported by the network are failures.
	UDPReplyTimeout *caddy.Duration `json:"udp_reply_timeout,omitempty"`

	// A UDP session ends after this many answers to each datagram of the
	// client, counted like nginx's proxy_responses. 1 suits DNS, even for
	// clients that send several queries from one port. Default: 0 (off), where
	// sessions end by idle_timeout.
	UDPResponses *int `json:"udp_responses,omitempty"`

	// The client addresses that are served: prefixes such as `10.0.0.0/8`, single
	// addresses, and `private_ranges`. A text may hold several, separated by white
	// space or commas, and comments from `#` to the end of the line, so that
	// `{file./etc/relay/allow.txt}` is a list. Other clients are refused when they
	// come: TCP clients with a RST, UDP clients without an answer. Default: all
	// addresses.
	Allow []string `json:"allow,omitempty"`

	// The client addresses that are refused, in the form of `allow`. They are
	// refused also if `allow` has them. Default: none.
	Deny []string `json:"deny,omitempty"`

	// The maximum number of concurrent relays of the service, TCP connections
	// and UDP sessions together. Clients above the limit are refused and
	// counted. Default: 0 (no limit).
	MaxConnections *int `json:"max_connections,omitempty"`

	// The maximum number of concurrent relays of the service for one client
	// address. Clients above the limit are refused and counted. Default: 0 (no
	// limit).
	MaxConnectionsPerIP *int `json:"max_connections_per_ip,omitempty"`

	// The maximum number of concurrent UDP sessions, at least 1. When it is
	// reached, a new client replaces the session that has been idle longest.
	// Default: the limit that all services share, which is the least of 65536,
	// 80 % of the system's ephemeral ports and half its limit of open files.
	MaxUDPSessions *int `json:"max_udp_sessions,omitempty"`

	// How long the relays of a service may continue after a reload removed the
	// service from the config. Then they are cut. Default: 0, which lets them
	// finish.
	GracePeriod *caddy.Duration `json:"grace_period,omitempty"`

	// How long relays may continue after Caddy received the signal to stop,
	// while no new clients are accepted. Then they are cut. 0 cuts them at
	// once. Default: 10s.
	ShutdownTimeout *caddy.Duration `json:"shutdown_timeout,omitempty"`

	// The idle time after which TCP keep-alive probes are sent on both
	// connections of a relay, and the interval between probes. A peer that does
	// not answer 9 probes is treated like one that reset its connection. From 1s
	// to 32767s, in whole seconds. 0 (in a Caddyfile: `off`) sends no probes.
	// Default: 15s.
	KeepAlive *caddy.Duration `json:"keepalive,omitempty"`

	// Which relays write an access log line when they end: `off`, `tcp` (TCP
	// connections) or `all` (also UDP sessions). Default: `off`.
	AccessLog string `json:"access_log,omitempty"`

	// The version of the PROXY protocol header that tells a backend the address
	// of the client: `off`, `v1` or `v2`. The backend must expect the header.
	// It precedes the first bytes of a TCP connection and the payload of a
	// datagram. v1 has no form for UDP, so UDP sessions then carry no header.
	// Default: `off`.
	ProxyProtocol string `json:"proxy_protocol,omitempty"`

	// Which datagrams of a UDP session carry the header: only the `first` one to
	// each backend, or `every` one. Requires proxy_protocol v2. Default:
	// `first`.
	ProxyProtocolUDP string `json:"proxy_protocol_udp,omitempty"`
}

// Service returns the name of the service, or its backends joined by "," if it
// has no name.
func (c Config) Service() string {
	if c.Name != "" {
		return c.Name
	}
	return strings.Join(c.Backends, ",")
}
