package caddyfile

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// setting is the effective value of one field: a key that is equal where the
// relay would behave the same, and the text to show.
type setting struct {
	field, key, text string
}

// settings lists the effective values in the order of the struct, those of an
// object behind whether there is one.
func (c Config) settings() []setting {
	o := c.Options()
	check, hook := HealthCheckOptions{}, EventHookOptions{}
	if o.HealthCheck != nil {
		check = *o.HealthCheck
	}
	if o.EventHook != nil {
		hook = *o.EventHook
	}
	return []setting{
		same("name", o.Service),
		{"backends", backendsKey(c.Backends), list(c.Backends, "none")},
		same("connect_timeout", duration(o.ConnectTimeout)),
		same("idle_timeout", duration(o.IdleTimeout)),
		same("cooldown", duration(o.Cooldown)),
		same("dns_ttl", duration(o.DNSTTL)),
		{"resolvers", fmt.Sprint(o.Resolvers), list(c.Resolvers, "the system's")},
		same("health_check", onOff(o.HealthCheck != nil)),
		same("health_check.network", probed(check)),
		same("health_check.interval", duration(check.Interval)),
		same("health_check.timeout", duration(check.Timeout)),
		same("health_check.rise", strconv.Itoa(check.Rise)),
		same("health_check.send", payload(check.Send)),
		same("health_check.expect", payload(check.Expect)),
		same("failback", onOff(o.Failback)),
		same("event_hook", onOff(o.EventHook != nil)),
		same("event_hook.command", hook.Command),
		{"event_hook.args", fmt.Sprintf("%q", hook.Args), list(hook.Args, "none")},
		same("event_hook.events", list(hook.Events, "none")),
		same("event_hook.timeout", duration(hook.Timeout)),
		same("udp_reply_timeout", duration(o.UDPReplyTimeout)),
		same("udp_responses", strconv.Itoa(o.UDPResponses)),
		same("max_connections", strconv.Itoa(o.MaxConnections)),
		same("max_connections_per_ip", strconv.Itoa(o.MaxConnectionsPerIP)),
		same("max_udp_sessions", sessions(o.MaxUDPSessions)),
		same("grace_period", duration(o.GracePeriod)),
		same("shutdown_timeout", duration(o.ShutdownTimeout)),
		same("access_log", o.AccessLog),
		same("proxy_protocol", proxyVersion(o.ProxyProtocol)),
		same("proxy_protocol_udp", firstOrEvery(o.ProxyProtocolEvery)),
	}
}

// Diff returns the JSON name of the first field whose effective value, with
// defaults filled in, differs between two valid configs, and both values as
// text. The field is empty when the two mean the same.
func Diff(a, b Config) (field, av, bv string) {
	bs := b.settings()
	for i, s := range a.settings() {
		if s.key != bs[i].key {
			return s.field, s.text, bs[i].text
		}
	}
	return "", "", ""
}

func same(field, text string) setting { return setting{field, text, text} }

func list(texts []string, none string) string {
	if len(texts) == 0 {
		return none
	}
	return strings.Join(texts, ", ")
}

// backendsKey is equal for lists that name the same endpoints in one order.
func backendsKey(texts []string) string {
	keys := make([]string, len(texts))
	for i, text := range texts {
		keys[i] = text
		if b, err := ParseBackend(text); err == nil {
			keys[i] = fmt.Sprint(b.endpoint())
		}
	}
	return strings.Join(keys, "\n")
}

func sessions(n int) string {
	if n == 0 {
		return "default"
	}
	return strconv.Itoa(n)
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func proxyVersion(n int) string {
	if n == 0 {
		return "off"
	}
	return "v" + strconv.Itoa(n)
}

func firstOrEvery(every bool) string {
	if every {
		return "every"
	}
	return "first"
}

func probed(h HealthCheckOptions) string {
	switch {
	case h.TCP && h.UDP:
		return "both"
	case h.UDP:
		return "udp"
	}
	return "tcp"
}

func payload(bytes []byte) string {
	if len(bytes) == 0 {
		return "nothing"
	}
	return strconv.Quote(string(bytes))
}

// duration is Go's notation without the zeros at its end: 30m, not 30m0s.
func duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
