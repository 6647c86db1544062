package caddyfile

import (
	"testing"
	"time"
)

func TestDiff(t *testing.T) {
	web := func(change func(*Config)) Config {
		c := Config{Name: "web", Backends: []string{"a:1", "b:1"}}
		change(&c)
		return c
	}
	base := web(func(*Config) {})
	for _, tt := range []struct {
		b     Config
		field string
		av    string
		bv    string
	}{
		{base, "", "", ""},
		{web(func(c *Config) { c.Backends = []string{"A:01", "b:1"} }), "", "", ""},
		{web(func(c *Config) {
			c.ConnectTimeout, c.IdleTimeout, c.Cooldown = durationPtr(DefaultConnectTimeout), durationPtr(DefaultIdleTimeout), durationPtr(0)
			c.DNSTTL, c.UDPReplyTimeout, c.UDPResponses = DNSTTL{Fixed: DefaultDNSTTL}, durationPtr(0), intPtr(0)
			c.GracePeriod, c.ShutdownTimeout = durationPtr(0), durationPtr(DefaultShutdownTimeout)
		}), "", "", ""},
		{web(func(c *Config) { c.Name = "x" }), "name", "web", "x"},
		{web(func(c *Config) { c.Backends = []string{"b:1", "a:1"} }), "backends", "a:1, b:1", "b:1, a:1"},
		{web(func(c *Config) { c.Backends = nil }), "backends", "a:1, b:1", "none"},
		{web(func(c *Config) { c.ConnectTimeout = durationPtr(time.Second); c.Cooldown = durationPtr(1) }), "connect_timeout", "5s", "1s"},
		{web(func(c *Config) { c.IdleTimeout = durationPtr(90 * time.Minute) }), "idle_timeout", "5m", "1h30m"},
		{web(func(c *Config) { c.Cooldown = durationPtr(100 * time.Hour) }), "cooldown", "0s", "100h"},
		{web(func(c *Config) { c.DNSTTL = DNSTTL{Fixed: 10 * time.Second} }), "dns_ttl", "1h", "10s"},
		{web(func(c *Config) { c.DNSTTL = DNSTTL{Record: true, Min: time.Second, Max: time.Minute} }), "dns_ttl", "1h", "record 1s 1m"},
		{web(func(c *Config) { c.Prefer = "ipv4" }), "prefer", "none", "ipv4"},
		{web(func(c *Config) { c.Only = "ipv6" }), "only", "both", "ipv6"},
		{web(func(c *Config) { c.Resolvers = []string{"1.1.1.1"} }), "resolvers", "the system's", "1.1.1.1"},
		{web(func(c *Config) { c.Hedge = durationPtr(time.Second) }), "hedge", "0s", "1s"},
		{web(func(c *Config) { c.FirstByteTimeout = durationPtr(time.Second) }), "first_byte_timeout", "0s", "1s"},
		{web(func(c *Config) { c.Hold = durationPtr(time.Second) }), "hold", "0s", "1s"},
		{web(func(c *Config) { c.OnDown = "cut" }), "on_down", "keep", "cut"},
		{web(func(c *Config) { c.OnDown = "keep" }), "", "", ""},
		{web(func(c *Config) { c.Rescue = intPtr(100) }), "rescue", "0", "100"},
		{web(func(c *Config) { c.UDPReplyTimeout = durationPtr(1) }), "udp_reply_timeout", "0s", "1ns"},
		{web(func(c *Config) { c.UDPResponses = intPtr(1) }), "udp_responses", "0", "1"},
		{web(func(c *Config) { c.MaxUDPSessions = intPtr(1) }), "max_udp_sessions", "default", "1"},
		{web(func(c *Config) { c.GracePeriod = durationPtr(time.Minute) }), "grace_period", "0s", "1m"},
		{web(func(c *Config) { c.ShutdownTimeout = durationPtr(0) }), "shutdown_timeout", "10s", "0s"},
		{web(func(c *Config) { c.KeepAlive = durationPtr(0) }), "keepalive", "15s", "0s"},
		{web(func(c *Config) { c.MaxConnections, c.MaxConnectionsPerIP = intPtr(0), intPtr(0) }), "", "", ""},
		{web(func(c *Config) { c.AccessLog, c.ProxyProtocol = "off", "off" }), "", "", ""},
		{web(func(c *Config) { c.MaxConnections = intPtr(5) }), "max_connections", "0", "5"},
		{web(func(c *Config) { c.MaxConnectionsPerIP = intPtr(5) }), "max_connections_per_ip", "0", "5"},
		{web(func(c *Config) { c.AccessLog = "tcp" }), "access_log", "off", "tcp"},
		{web(func(c *Config) { c.ProxyProtocol = "v1" }), "proxy_protocol", "off", "v1"},
		{web(func(c *Config) { c.HealthCheck = &HealthCheck{}; c.Failback = FailbackOn }), "health_check", "off", "on"},
		{web(func(c *Config) { c.Failback = FailbackOn }), "failback", "off", "on"},
		{web(func(c *Config) { c.Failback = FailbackMove }), "failback", "off", "move"},
		{web(func(c *Config) { c.EventHook = &EventHook{Command: "x"} }), "event_hook", "off", "on"},
	} {
		checkDiff(t, base, tt.b, tt.field, tt.av, tt.bv)
	}
}

// TestDiffOfObjects compares configs with a health check and an event hook.
func TestDiffOfObjects(t *testing.T) {
	web := func(change func(*HealthCheck, *EventHook)) Config {
		c := Config{Backends: []string{"a:1"}, HealthCheck: &HealthCheck{Send: `A\n`}, EventHook: &EventHook{Command: "x"}}
		change(c.HealthCheck, c.EventHook)
		return c
	}
	base := web(func(*HealthCheck, *EventHook) {})
	for _, tt := range []struct {
		b     Config
		field string
		av    string
		bv    string
	}{
		{web(func(h *HealthCheck, e *EventHook) {
			h.Interval, h.Timeout, h.Rise = durationPtr(DefaultHealthInterval), durationPtr(DefaultHealthTimeout), intPtr(DefaultHealthRise)
			h.Send = "hex:410a"
			e.Args, e.Timeout = []string{}, durationPtr(DefaultHookTimeout)
			e.Events = []string{"backend_recovered", "all_backends_unavailable", "backend_failed", "backend_failed"}
		}), "", "", ""},
		{web(func(h *HealthCheck, _ *EventHook) { h.Interval = durationPtr(1) }), "health_check.interval", "1m", "1ns"},
		{web(func(h *HealthCheck, _ *EventHook) { h.Timeout = durationPtr(1) }), "health_check.timeout", "5s", "1ns"},
		{web(func(h *HealthCheck, _ *EventHook) { h.Rise = intPtr(1) }), "health_check.rise", "2", "1"},
		{web(func(h *HealthCheck, _ *EventHook) { h.Send = "" }), "health_check.send", `"A\n"`, "nothing"},
		{web(func(h *HealthCheck, _ *EventHook) { h.Expect = "B" }), "health_check.expect", "nothing", `"B"`},
		{web(func(_ *HealthCheck, e *EventHook) { e.Command = "y" }), "event_hook.command", "x", "y"},
		{web(func(_ *HealthCheck, e *EventHook) { e.Args = []string{"a b", "c"} }), "event_hook.args", "none", "a b, c"},
		{web(func(_ *HealthCheck, e *EventHook) { e.Events = []string{"backend_failed"} }),
			"event_hook.events", "backend_failed, backend_recovered, all_backends_unavailable", "backend_failed"},
		{web(func(_ *HealthCheck, e *EventHook) { e.Timeout = durationPtr(time.Second) }), "event_hook.timeout", "30s", "1s"},
	} {
		checkDiff(t, base, tt.b, tt.field, tt.av, tt.bv)
	}

	one := Config{Backends: []string{"a:1"}, EventHook: &EventHook{Command: "x", Args: []string{"a, b"}}}
	two := Config{Backends: []string{"a:1"}, EventHook: &EventHook{Command: "x", Args: []string{"a", "b"}}}
	checkDiff(t, one, two, "event_hook.args", "a, b", "a, b")

	v2 := Config{Backends: []string{"a:1"}, ProxyProtocol: "v2", ProxyProtocolUDP: "first"}
	every := Config{Backends: []string{"a:1"}, ProxyProtocol: "v2", ProxyProtocolUDP: "every"}
	checkDiff(t, v2, every, "proxy_protocol_udp", "first", "every")
	v2.ProxyProtocolUDP = ""
	checkDiff(t, v2, every, "proxy_protocol_udp", "first", "every")
}

// checkDiff compares a with b and b with a.
func checkDiff(t *testing.T, a, b Config, wantField, wantA, wantB string) {
	t.Helper()
	if field, av, bv := Diff(a, b); field != wantField || av != wantA || bv != wantB {
		t.Errorf("got %q %q %q, want %q %q %q", field, av, bv, wantField, wantA, wantB)
	}
	if field, av, bv := Diff(b, a); field != wantField || av != wantB || bv != wantA {
		t.Errorf("reversed: got %q %q %q, want %q %q %q", field, av, bv, wantField, wantB, wantA)
	}
}
