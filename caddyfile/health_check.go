package caddyfile

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// HealthCheck holds the settings of the probes of backends. A probe is one of:
//
//   - a TCP connect, if nothing else is set
//   - send and expect: an exchange over the probed network
//   - http: an HTTP request
//   - redis, postgres or dns: a send and expect that is known by this name
//
// UDP has no connections, so a probe of a UDP backend requires an answer: send,
// dns or http.
type HealthCheck struct {
	// The network whose state the probes decide: `tcp`, `udp` or `both`. `udp`
	// and `both` require send, dns or http. Default: `tcp`.
	Network string `json:"network,omitempty"`

	// The time between the starts of two probes of a backend, varied randomly
	// by up to a tenth. Must be at least 10ms. Default: 60s.
	Interval *caddy.Duration `json:"interval,omitempty"`

	// The time limit of one probe, including the lookup of the name and the
	// answer. Must be greater than zero and at most the interval. Default: 5s,
	// or the interval if that is shorter.
	Timeout *caddy.Duration `json:"timeout,omitempty"`

	// The number of successful probes in a row after which failback returns a
	// backend to its configured place, at least 1. Has no effect without
	// failback. Default: 2.
	Rise *int `json:"rise,omitempty"`

	// The port to probe, from 1 to 65535, if it differs from that of the
	// backend. Probes of another port carry no header of the PROXY protocol.
	// Default: the port of the backend.
	Port *int `json:"port,omitempty"`

	// The payload that a probe sends, at most 65507 bytes. It is either text
	// with the escapes `\r`, `\n`, `\t`, `\\` and `\xNN` (two hex digits), or
	// `hex:` and pairs of hex digits, as in `hex:0a0b`. May contain `{env.*}`
	// and `{file.*}` placeholders, which are replaced before escapes are
	// interpreted. Write other braces as `\{` and `\}`. Default: none.
	Send string `json:"send,omitempty"`

	// The bytes that the answer must contain, written like send. Without send,
	// the backend must speak first, as in SMTP, SSH and IMAP. With http, the
	// first 64 KiB of the body must contain them. Default: any answer is
	// accepted.
	Expect string `json:"expect,omitempty"`

	// The path of an HTTP request, with the query if there is one, such as
	// `/primary`. The request is a GET over TCP, also if network is `udp`.
	// Redirects are not followed. May contain `{env.*}` and `{file.*}`
	// placeholders. Default: none.
	HTTP string `json:"http,omitempty"`

	// The healthy HTTP statuses, each a status such as `204`, a class such as
	// `2xx` or a range such as `200-399`. Requires http. Default: `2xx`.
	HTTPStatus []string `json:"http_status,omitempty"`

	// The Host header of the HTTP request. Requires http. May contain `{env.*}`
	// and `{file.*}` placeholders. Default: the probed address.
	Host string `json:"host,omitempty"`

	// Probes a Redis server: `any` sends `PING`, and `master` sends `ROLE` and
	// expects the server to be a master. Default: off.
	Redis string `json:"redis,omitempty"`

	// Probes a PostgreSQL server: sends the startup packet of the user postgres
	// and expects the server to go on to authentication. Default: false.
	Postgres bool `json:"postgres,omitempty"`

	// Probes a DNS server: queries the A records of this name, over UDP and TCP
	// as network says, and expects an answer without an error. May contain
	// `{env.*}` and `{file.*}` placeholders. Default: off.
	DNS string `json:"dns,omitempty"`
}

// HealthCheckOptions holds the settings of health checks with every default
// filled in.
type HealthCheckOptions struct {
	TCP, UDP bool // the networks to probe
	Interval time.Duration
	Timeout  time.Duration
	Rise     int
	Port     uint16 // 0: that of the backend
	HTTP     *HTTPOptions
	Exchange

	Kind string // the probe in words
}

// HTTPOptions holds the settings of an HTTP request.
type HTTPOptions struct {
	Path, Host string      // Host "": the probed address
	Status     []HTTPRange // empty: 2xx
}

// Exchange is what a probe sends and what it expects.
type Exchange struct {
	Send   []byte
	Framed bool     // over TCP, two bytes of length precede Send
	Expect [][]byte // one of them must occur in the answer; empty: any answer is accepted
}

func (h *HealthCheck) options() *HealthCheckOptions {
	if h == nil {
		return nil
	}
	interval := durationOr(h.Interval, DefaultHealthInterval)
	o := &HealthCheckOptions{
		TCP:      h.Network != "udp",
		UDP:      h.Network == "udp" || h.Network == "both",
		Interval: interval,
		Timeout:  durationOr(h.Timeout, min(DefaultHealthTimeout, interval)),
		Rise:     intOr(h.Rise, DefaultHealthRise),
		Port:     uint16(intOr(h.Port, 0)),
		HTTP:     h.http(),
		Kind:     h.kind(),
	}
	switch {
	case h.Redis != "":
		o.Exchange = redisExchange(h.Redis == redisMaster)
	case h.Postgres:
		o.Exchange = postgresExchange()
	case h.DNS != "":
		o.Exchange, _ = dnsExchange(h.DNS)
	default:
		o.Send, _ = parsePayload(h.Send)
		if expect, _ := parsePayload(h.Expect); len(expect) > 0 {
			o.Expect = [][]byte{expect}
		}
	}
	return o
}

// Describe describes the probe in words, or returns "" if there is none. The text
// has the placeholders of the config, not their values, unless the config is
// resolved.
func (h *HealthCheck) Describe() string {
	if h == nil {
		return ""
	}
	return h.kind()
}

// kind describes the probe.
func (h *HealthCheck) kind() string {
	text := "connect"
	switch {
	case h.HTTP != "":
		text = "http " + h.HTTP
	case h.Redis == redisMaster:
		text = "redis master"
	case h.Redis != "":
		text = "redis"
	case h.Postgres:
		text = "postgres"
	case h.DNS != "":
		text = "dns " + h.DNS
	case h.Send != "" && h.Expect != "":
		text = "send and expect"
	case h.Send != "":
		text = "send"
	case h.Expect != "":
		text = "expect"
	}
	if h.Port != nil {
		text += fmt.Sprintf(" on port %d", *h.Port)
	}
	return text
}

// validate reports the problems that the tables of settings cannot find.
func (h *HealthCheck) validate(fail func(field string, err error)) {
	if h == nil {
		return
	}
	fail("health_check.timeout", h.checkTimeout())
	fail("health_check", h.checkKinds())
	if h.HTTP != "" {
		fail("health_check.http", checkPath(h.HTTP))
	} else {
		if len(h.HTTPStatus) > 0 {
			fail("health_check.http_status", errors.New("requires health_check.http"))
		}
		if h.Host != "" {
			fail("health_check.host", errors.New("requires health_check.http"))
		}
	}
	for _, text := range h.HTTPStatus {
		_, err := parseHTTPRange(text)
		fail("health_check.http_status", err)
	}
	if h.Host != "" {
		fail("health_check.host", checkHost(h.Host))
	}
	if h.Redis != "" {
		fail("health_check.redis", redisRoles.check(h.Redis))
	}
	if h.DNS != "" {
		_, err := dnsExchange(h.DNS)
		fail("health_check.dns", err)
	}
	if (h.Network == "udp" || h.Network == "both") && cmp.Or(h.Send, h.HTTP, h.DNS) == "" {
		fail("health_check.network", fmt.Errorf("%s requires health_check.send, dns or http, because a UDP probe succeeds only with an answer", h.Network))
	}
}

// checkTimeout rejects a written timeout above the interval. Probes of a backend
// do not overlap, so it would stretch the interval.
func (h *HealthCheck) checkTimeout() error {
	interval := durationOr(h.Interval, DefaultHealthInterval)
	if timeout := durationOr(h.Timeout, 0); interval > 0 && timeout > interval {
		return fmt.Errorf("must be at most the interval of %s, got %s", FormatDuration(interval), FormatDuration(timeout))
	}
	return nil
}

// checkKinds rejects a check that is several kinds of probe.
func (h *HealthCheck) checkKinds() error {
	var set []string
	for _, kind := range []struct {
		name string
		set  bool
	}{
		{"send", h.Send != ""},
		{"expect", h.Expect != "" && h.HTTP == ""}, // with http it is about the body
		{"http", h.HTTP != ""},
		{"redis", h.Redis != ""},
		{"postgres", h.Postgres},
		{"dns", h.DNS != ""},
	} {
		if kind.set {
			set = append(set, kind.name)
		}
	}
	if len(set) < 2 || len(set) == 2 && set[0] == "send" && set[1] == "expect" {
		return nil
	}
	return fmt.Errorf("a check is one of send and expect, http, redis, postgres and dns, got %s", list(set, ""))
}
