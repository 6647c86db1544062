package caddyfile

import (
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

func TestValidateAccepts(t *testing.T) {
	for _, c := range []Config{
		{Backends: []string{"example.com:80"}},
		{Backends: []string{"example.com:80", "example.com:81", "[::1]:80", "127.0.0.1:80"}, Name: "Büro – 1"},
		{
			Backends: []string{"a:1"}, ConnectTimeout: durationPtr(minDuration), IdleTimeout: durationPtr(MaxDuration), Cooldown: durationPtr(0),
			DNSTTL: DNSTTL{Fixed: time.Hour}, UDPReplyTimeout: durationPtr(0), UDPResponses: intPtr(0), MaxUDPSessions: intPtr(1),
			GracePeriod: durationPtr(0), ShutdownTimeout: durationPtr(0),
			Resolvers: []string{"1.1.1.1", "1.1.1.1:5353", "::1", "[::1]", "[::1]:5353", "fe80::1%eth0",
				"tls://9.9.9.9", "TLS://dns.example:8853", "tls://[::1]#dns.example", "https://dns.example/dns-query", "https://[::1]:444/q?x=1"},
		},
		{Backends: []string{"a:1"}, GracePeriod: durationPtr(MaxDuration), ShutdownTimeout: durationPtr(MaxDuration)},
		{Backends: []string{"a:1"}, HealthCheck: &HealthCheck{}, Failback: FailbackOn, EventHook: &EventHook{Command: "x"}},
		{
			Backends: []string{"a:1"}, MaxConnections: intPtr(0), MaxConnectionsPerIP: intPtr(0), AccessLog: "off", ProxyProtocol: "off",
			HealthCheck: &HealthCheck{Interval: durationPtr(minInterval), Timeout: durationPtr(minDuration), Rise: intPtr(1), Send: "x"},
			EventHook:   &EventHook{Command: "a b", Args: []string{"", " "}, Events: []string{"backend_failed", "backend_failed"}, Timeout: durationPtr(minDuration)},
		},
		{Backends: []string{"a:1"}, ProxyProtocol: "v1", AccessLog: "tcp"},
		{Backends: []string{"a:1"}, ProxyProtocol: "v2", ProxyProtocolUDP: "first", AccessLog: "all"},
		{Backends: []string{"a:1"}, ProxyProtocol: "v2", ProxyProtocolUDP: "every", HealthCheck: &HealthCheck{Send: "x", Expect: "y"}},
	} {
		if err := c.Validate(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestValidateRejects(t *testing.T) {
	web := func(change func(*Config)) Config {
		c := Config{Name: "web", Backends: []string{"example.com:80"}}
		change(&c)
		return c
	}
	for _, tt := range []struct {
		c    Config
		want string
	}{
		{Config{Name: "web"}, `service "web": backends: must list at least one host:port, got none`},
		{Config{}, "service without name and backends: backends: must list at least one host:port, got none"},
		{Config{Backends: []string{"a", "b:1"}}, `service "a,b:1": backends: "a": port is missing; expected host:port`},
		{web(func(c *Config) { c.Name = " " }), `service " ": name: must not be blank, got " "`},
		{web(func(c *Config) { c.Name = "a\nb" }), `service "a\nb": name: must not contain control characters, got "a\nb"`},
		{web(func(c *Config) { c.Name = "a\xff" }), `service "a\xff": name: must be valid UTF-8, got "a\xff"`},
		{web(func(c *Config) { c.Backends = []string{"bücher.example:80", "XN--bcher-kva.Example:80"} }),
			`service "web": backends: "XN--bcher-kva.Example:80": listed twice, first as "bücher.example:80"`},
		{web(func(c *Config) { c.Backends = []string{"[::1]:80", "[0::1]:80"} }),
			`service "web": backends: "[0::1]:80": listed twice, first as "[::1]:80"`},
		{web(func(c *Config) { c.Backends = []string{"1.2.3.4:80", "[::ffff:1.2.3.4]:80"} }),
			`service "web": backends: "[::ffff:1.2.3.4]:80": listed twice, first as "1.2.3.4:80"`},
		{web(func(c *Config) { c.ConnectTimeout = durationPtr(0) }), `service "web": connect_timeout: must be greater than zero, got 0s`},
		{web(func(c *Config) { c.IdleTimeout = durationPtr(-time.Second) }), `service "web": idle_timeout: must be greater than zero, got -1s`},
		{web(func(c *Config) { c.DNSTTL.Fixed = -1 }), `service "web": dns_ttl: must be greater than zero, got -1ns`},
		{web(func(c *Config) { c.Cooldown = durationPtr(-1) }), `service "web": cooldown: must not be negative, got -1ns`},
		{web(func(c *Config) { c.UDPReplyTimeout = durationPtr(-1) }), `service "web": udp_reply_timeout: must not be negative, got -1ns`},
		{web(func(c *Config) { c.GracePeriod = durationPtr(-1) }), `service "web": grace_period: must not be negative, got -1ns`},
		{web(func(c *Config) { c.ShutdownTimeout = durationPtr(-time.Second) }), `service "web": shutdown_timeout: must not be negative, got -1s`},
		{web(func(c *Config) { c.KeepAlive = durationPtr(15) }), `service "web": keepalive: must be whole seconds from 1s to 32767s, or 0, got 15ns; a JSON number is in nanoseconds, write "15s" for 15 seconds`},
		{web(func(c *Config) { c.KeepAlive = durationPtr(1500 * time.Millisecond) }), `service "web": keepalive: must be whole seconds from 1s to 32767s, or 0, got 1.5s`},
		{web(func(c *Config) { c.KeepAlive = durationPtr(10 * time.Hour) }), `service "web": keepalive: must be whole seconds from 1s to 32767s, or 0, got 10h0m0s`},
		{web(func(c *Config) { c.Cooldown = durationPtr(math.MaxInt64) }),
			`service "web": cooldown: must be at most 876000h0m0s (100 years), got 2562047h47m16.854775807s`},
		{web(func(c *Config) { c.UDPResponses = intPtr(-1) }), `service "web": udp_responses: must be at least 0, got -1`},
		{web(func(c *Config) { c.Hedge = durationPtr(time.Millisecond) }), `service "web": hedge: must be at least 10ms, got 1ms`},
		{web(func(c *Config) { c.Rescue = intPtr(-1) }), `service "web": rescue: must be a number of bytes from 0 to 1048576, got -1`},
		{web(func(c *Config) { c.Rescue = intPtr(1<<20 + 1) }), `service "web": rescue: must be a number of bytes from 0 to 1048576, got 1048577`},
		{web(func(c *Config) { c.MaxUDPSessions = intPtr(0) }), `service "web": max_udp_sessions: must be at least 1, got 0`},
	} {
		if err := tt.c.Validate(); err == nil || err.Error() != tt.want {
			t.Errorf("%+v:\ngot  %v\nwant %s", tt.c, err, tt.want)
		}
	}
}

// TestValidateRejectsBareNumbers decodes durations that were written as JSON
// numbers and meant as seconds, for each field that is a duration.
func TestValidateRejectsBareNumbers(t *testing.T) {
	for _, s := range durationSettings {
		outer, inner, nested := strings.Cut(s.field, ".")
		field := `"` + s.field + `": 3600`
		if nested {
			field = `"` + outer + `": {"` + inner + `": 3600}`
			if outer == "event_hook" {
				field = `"` + outer + `": {"command": "x", "` + inner + `": 3600}`
			}
		}
		var c Config
		relaytest.Check(t, caddy.StrictUnmarshalJSON([]byte(`{"name": "web", "backends": ["a:1"], `+field+`}`), &c))
		err := c.Validate()
		for _, want := range []string{": " + s.field + ": must be ", ", got 3.6µs; ", `write "3600s" for 3600 seconds`} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v, want it to contain %q", field, err, want)
			}
		}
	}
}

// A duration that is long enough to be meant gets no advice about numbers.
func TestValidateRejectsShortDurations(t *testing.T) {
	for _, test := range []struct {
		c    Config
		want string
	}{
		{Config{DNSTTL: DNSTTL{Fixed: 999 * time.Millisecond}}, "dns_ttl: must be at least 1s, got 999ms"},
		{Config{DNSTTL: DNSTTL{Record: true, Min: 2 * time.Second, Max: time.Second}}, "dns_ttl: the lower bound must not be above the upper one, got 2s and 1s"},
		{Config{Prefer: "ipv4", Only: "ipv6"}, "prefer: must not be ipv4 with only ipv6, which leaves no addresses of that family"},
		{Config{HealthCheck: &HealthCheck{Interval: durationPtr(9 * time.Millisecond)}}, "health_check.interval: must be at least 10ms, got 9ms"},
	} {
		test.c.Name, test.c.Backends = "web", []string{"a:1"}
		if err := test.c.Validate(); err == nil || err.Error() != `service "web": `+test.want {
			t.Errorf("error %v, want %s", err, test.want)
		}
	}
}

// TestValidateRejectsHooksAndLimits changes a config with a health check and an
// event hook.
func TestValidateRejectsHooksAndLimits(t *testing.T) {
	web := func(change func(*Config, *HealthCheck, *EventHook)) Config {
		c := Config{Name: "web", Backends: []string{"example.com:80"}, HealthCheck: &HealthCheck{}, EventHook: &EventHook{Command: "x"}}
		change(&c, c.HealthCheck, c.EventHook)
		return c
	}
	for _, tt := range []struct {
		c    Config
		want string
	}{
		{web(func(c *Config, _ *HealthCheck, _ *EventHook) { c.MaxConnections = intPtr(-1) }), "max_connections: must be at least 0, got -1"},
		{web(func(c *Config, _ *HealthCheck, _ *EventHook) { c.MaxConnectionsPerIP = intPtr(-1) }),
			"max_connections_per_ip: must be at least 0, got -1"},
		{web(func(c *Config, _ *HealthCheck, _ *EventHook) { c.AccessLog = "udp" }), `access_log: must be off, tcp or all, got "udp"`},
		{web(func(c *Config, _ *HealthCheck, _ *EventHook) { c.ProxyProtocol = "2" }), `proxy_protocol: must be off, v1 or v2, got "2"`},
		{web(func(c *Config, _ *HealthCheck, _ *EventHook) { c.ProxyProtocol, c.ProxyProtocolUDP = "v2", "all" }),
			`proxy_protocol_udp: must be first or every, got "all"`},
		{web(func(c *Config, _ *HealthCheck, _ *EventHook) { c.ProxyProtocol, c.ProxyProtocolUDP = "v1", "first" }),
			"proxy_protocol_udp: requires proxy_protocol v2, because v1 has no header for UDP"},
		{web(func(c *Config, _ *HealthCheck, _ *EventHook) { c.ProxyProtocolUDP = "every" }),
			"proxy_protocol_udp: requires proxy_protocol v2, because v1 has no header for UDP"},
		{web(func(c *Config, _ *HealthCheck, _ *EventHook) { c.HealthCheck, c.Failback = nil, FailbackOn }),
			"failback: requires health_check, whose probes decide when a backend returns"},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) { h.Interval = durationPtr(0) }), "health_check.interval: must be greater than zero, got 0s"},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) { h.Timeout = durationPtr(-1) }), "health_check.timeout: must be greater than zero, got -1ns"},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) { h.Rise = intPtr(0) }), "health_check.rise: must be at least 1, got 0"},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) { h.Send = "hex:0" }),
			`health_check.send: must be pairs of hex digits after hex:, as in hex:0a0b, got "hex:0"`},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) { h.Send, h.Expect = "x", `x\` }),
			`health_check.expect: must not end with a single backslash; write \\ for a backslash`},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) { h.Expect, h.Network = "x", "udp" }),
			"health_check.network: udp requires health_check.send, dns or http, because a UDP probe succeeds only with an answer"},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) { h.Redis, h.Network = "any", "both" }),
			"health_check.network: both requires health_check.send, dns or http, because a UDP probe succeeds only with an answer"},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) { h.Timeout = durationPtr(61 * time.Second) }),
			"health_check.timeout: must be at most the interval of 1m, got 1m1s"},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) {
			h.Interval, h.Timeout = durationPtr(time.Second), durationPtr(2*time.Second)
		}),
			"health_check.timeout: must be at most the interval of 1s, got 2s"},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) { h.Port = intPtr(0) }), "health_check.port: must be at least 1, got 0"},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) { h.Port = intPtr(65536) }), "health_check.port: must be at most 65535, got 65536"},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) { h.HTTP = "health" }),
			`health_check.http: must be a path that begins with a slash, such as /health, got "health"`},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) { h.HTTP = "http://a.test/" }),
			`health_check.http: must be a path that begins with a slash, such as /health, got "http://a.test/"`},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) { h.HTTP = "/a b" }),
			`health_check.http: must be a path that begins with a slash, such as /health, got "/a b"`},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) { h.HTTP, h.HTTPStatus = "/", []string{"600"} }),
			`health_check.http_status: must be a status such as 204, a class such as 2xx or a range such as 200-399, got "600"`},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) { h.HTTPStatus = []string{"200"} }), "health_check.http_status: requires health_check.http"},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) { h.Host = "a.test" }), "health_check.host: requires health_check.http"},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) { h.HTTP, h.Host = "/", "a/b" }),
			`health_check.host: must be a host name, with a port if need be, got "a/b"`},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) { h.Redis = "slave" }), `health_check.redis: must be any or master, got "slave"`},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) { h.DNS = "a..b" }), `health_check.dns: must be a domain name, got "a..b"`},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) { h.HTTP, h.Send = "/", "x" }),
			"health_check: a check is one of send and expect, http, redis, postgres and dns, got send, http"},
		{web(func(_ *Config, h *HealthCheck, _ *EventHook) { h.Redis, h.Postgres, h.Expect = "any", true, "x" }),
			"health_check: a check is one of send and expect, http, redis, postgres and dns, got expect, redis, postgres"},
		{web(func(_ *Config, _ *HealthCheck, e *EventHook) { e.Command = "" }),
			`event_hook.command: must be the path or name of a command, got ""`},
		{web(func(_ *Config, _ *HealthCheck, e *EventHook) { e.Command = " \t" }),
			`event_hook.command: must be the path or name of a command, got " \t"`},
		{web(func(_ *Config, _ *HealthCheck, e *EventHook) { e.Command = "a\x00" }),
			`event_hook.command: must not contain a NUL character, got "a\x00"`},
		{web(func(_ *Config, _ *HealthCheck, e *EventHook) { e.Args = []string{"a", "\x00"} }),
			`event_hook.args: must not contain a NUL character, got "\x00"`},
		{web(func(_ *Config, _ *HealthCheck, e *EventHook) { e.Events = []string{"backend_failed", "backend_up"} }),
			`event_hook.events: must be one of backend_failed, backend_recovered, all_backends_unavailable, got "backend_up"`},
		{web(func(_ *Config, _ *HealthCheck, e *EventHook) { e.Timeout = durationPtr(0) }), "event_hook.timeout: must be greater than zero, got 0s"},
	} {
		if err := tt.c.Validate(); err == nil || err.Error() != `service "web": `+tt.want {
			t.Errorf("%+v:\ngot  %v\nwant %s", tt.c, err, tt.want)
		}
	}
}

func TestValidateRejectsResolvers(t *testing.T) {
	for _, text := range []string{"", "dns.example", "1.1.1.1:", "1.1.1.1:0", "1.1.1.1:65536", "1.1.1.1:dns", " 1.1.1.1",
		"[1.1.1.1]", "[::1", "::1]", "[::1]x", "udp/1.1.1.1", "1.1.1", "fe80::1%a b", "tcp://1.1.1.1"} {
		err := Config{Name: "web", Backends: []string{"a:1"}, Resolvers: []string{text}}.Validate()
		if err == nil || !strings.HasPrefix(err.Error(), `service "web": resolvers: `+strconv.Quote(text)+": must be an IP address, ip:port, tls://host[:port][#name] or https://host[:port]/path") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestValidateReportsAll(t *testing.T) {
	err := Config{
		Name: "\t", ConnectTimeout: durationPtr(0), Resolvers: []string{"x", "y"}, MaxUDPSessions: intPtr(-1),
		Backends: []string{"a", "b", "c:1", "C:1"}, AccessLog: "x", ProxyProtocolUDP: "x", EventHook: &EventHook{Events: []string{"x", "y"}},
		HealthCheck: &HealthCheck{Interval: durationPtr(0), Rise: intPtr(0), Send: "hex:", Expect: "hex:"},
	}.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	var fields []string
	for line := range strings.Lines(err.Error()) {
		fields = append(fields, strings.Split(line, ": ")[1])
	}
	want := "name backends backends backends connect_timeout health_check.interval resolvers resolvers health_check.rise max_udp_sessions " +
		"access_log proxy_protocol_udp health_check.send health_check.expect event_hook.command event_hook.events event_hook.events proxy_protocol_udp"
	if got := strings.Join(fields, " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
