package caddyfile

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// setting is the effective value of one field.
type setting struct {
	field string // JSON name
	key   string // equal for values with which the relay behaves the same
	text  string // the value as error messages show it
}

// settings lists the effective values in the order of the struct. The fields of
// an object follow the entry of the object itself, which is on or off.
func (c Config) settings() []setting {
	o := c.Options()
	check, hook := HealthCheckOptions{}, EventHookOptions{}
	var written HealthCheck
	if o.HealthCheck != nil {
		check, written = *o.HealthCheck, *c.HealthCheck
	}
	if o.EventHook != nil {
		hook = *o.EventHook
	}
	return []setting{
		plain("name", o.Service),
		{"backends", backendsKey(c.Backends), list(c.Backends, "none")},
		plain("connect_timeout", FormatDuration(o.ConnectTimeout)),
		plain("idle_timeout", FormatDuration(o.IdleTimeout)),
		plain("cooldown", FormatDuration(o.Cooldown)),
		plain("dns_ttl", o.DNSTTL.String()),
		{"resolvers", fmt.Sprint(o.Resolvers), list(c.Resolvers, "the system's")},
		plain("prefer", cmp.Or(o.Prefer, "none")),
		plain("only", cmp.Or(o.Only, "both")),
		plain("health_check", onOff(o.HealthCheck != nil)),
		plain("health_check.network", probed(check)),
		plain("health_check.interval", FormatDuration(check.Interval)),
		plain("health_check.timeout", FormatDuration(check.Timeout)),
		plain("health_check.rise", strconv.Itoa(check.Rise)),
		plain("health_check.port", portOr(check.Port, "that of the backend")),
		plain("health_check.send", payload(written.Send)),
		plain("health_check.expect", payload(written.Expect)),
		plain("health_check.http", cmp.Or(written.HTTP, "off")),
		plain("health_check.http_status", statuses(check.HTTP)),
		plain("health_check.host", cmp.Or(written.Host, "the probed address")),
		plain("health_check.redis", cmp.Or(written.Redis, "off")),
		plain("health_check.postgres", onOff(written.Postgres)),
		plain("health_check.dns", cmp.Or(written.DNS, "off")),
		plain("failback", o.Failback.word()),
		plain("event_hook", onOff(o.EventHook != nil)),
		plain("event_hook.command", hook.Command),
		{"event_hook.args", fmt.Sprintf("%q", hook.Args), list(hook.Args, "none")},
		plain("event_hook.events", list(hook.Events, "none")),
		plain("event_hook.timeout", FormatDuration(hook.Timeout)),
		plain("hedge", FormatDuration(o.Hedge)),
		plain("first_byte_timeout", FormatDuration(o.FirstByteTimeout)),
		plain("rescue", strconv.Itoa(o.Rescue)),
		plain("hold", FormatDuration(o.Hold)),
		plain("on_down", keepOrCut(o.OnDownCut)),
		plain("udp_reply_timeout", FormatDuration(o.UDPReplyTimeout)),
		plain("udp_responses", strconv.Itoa(o.UDPResponses)),
		clientsSetting("allow", o.Allow, "all"),
		clientsSetting("deny", o.Deny, "none"),
		plain("max_connections", strconv.Itoa(o.MaxConnections)),
		plain("max_connections_per_ip", strconv.Itoa(o.MaxConnectionsPerIP)),
		plain("max_udp_sessions", sessions(o.MaxUDPSessions)),
		plain("grace_period", FormatDuration(o.GracePeriod)),
		plain("shutdown_timeout", FormatDuration(o.ShutdownTimeout)),
		plain("keepalive", FormatDuration(o.KeepAlive)),
		plain("access_log", o.AccessLog),
		plain("proxy_protocol", proxyVersion(o.ProxyProtocol)),
		plain("proxy_protocol_udp", firstOrEvery(o.ProxyProtocolEvery)),
	}
}

// Diff compares the effective values of two valid configs, with defaults filled
// in. It returns the JSON name of the first field that differs and both values
// as text. The field is empty if all effective values are equal.
func Diff(a, b Config) (field, av, bv string) {
	bs := b.settings()
	for i, s := range a.settings() {
		if s.key != bs[i].key {
			return s.field, s.text, bs[i].text
		}
	}
	return "", "", ""
}

// plain returns a setting whose text is also its key.
func plain(field, text string) setting { return setting{field, text, text} }

func list(texts []string, none string) string {
	if len(texts) == 0 {
		return none
	}
	return strings.Join(texts, ", ")
}

// backendsKey returns a text that is equal for lists of the same backends in
// the same order, however they are written.
func backendsKey(texts []string) string {
	keys := make([]string, len(texts))
	for i, text := range texts {
		keys[i] = text
		if b, err := ParseBackend(text); err == nil {
			keys[i] = fmt.Sprint(b.Identity())
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

func keepOrCut(cut bool) string {
	if cut {
		return "cut"
	}
	return "keep"
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

// payload returns the bytes that a text of a valid payload stands for.
func payload(text string) string {
	bytes, _ := parsePayload(text)
	if len(bytes) == 0 {
		return "nothing"
	}
	return strconv.Quote(string(bytes))
}

func portOr(port uint16, none string) string {
	if port == 0 {
		return none
	}
	return strconv.Itoa(int(port))
}

// statuses returns the accepted ranges of statuses. Those of the default are equal
// to a written 2xx.
func statuses(o *HTTPOptions) string {
	ranges := []HTTPRange{{200, 299}}
	if o != nil && len(o.Status) > 0 {
		ranges = o.Status
	}
	texts := make([]string, len(ranges))
	for i, r := range ranges {
		texts[i] = fmt.Sprintf("%d-%d", r.From, r.To)
	}
	return strings.Join(texts, ", ")
}
