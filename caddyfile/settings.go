package caddyfile

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// The tables in this file hold the settings that are alike, for the grammar
// and for Validate. A field within an object has the object's name and a dot
// in front, and its get returns nil where there is no such object.

// maxDuration keeps sums of a few durations and a point in time from
// overflowing, and is longer than anybody waits.
const maxDuration = 100 * 365 * 24 * time.Hour

// durationSetting is a setting that is a duration, and whether zero has a
// meaning for it.
type durationSetting struct {
	field string
	get   func(*Config) **caddy.Duration
	zero  bool
}

var durationSettings = []durationSetting{
	{"connect_timeout", func(c *Config) **caddy.Duration { return &c.ConnectTimeout }, false},
	{"idle_timeout", func(c *Config) **caddy.Duration { return &c.IdleTimeout }, false},
	{"cooldown", func(c *Config) **caddy.Duration { return &c.Cooldown }, true},
	{"dns_ttl", func(c *Config) **caddy.Duration { return &c.DNSTTL }, false},
	{"health_check.interval", ofHealthCheck(func(h *HealthCheck) **caddy.Duration { return &h.Interval }), false},
	{"health_check.timeout", ofHealthCheck(func(h *HealthCheck) **caddy.Duration { return &h.Timeout }), false},
	{"event_hook.timeout", ofEventHook(func(h *EventHook) **caddy.Duration { return &h.Timeout }), false},
	{"udp_reply_timeout", func(c *Config) **caddy.Duration { return &c.UDPReplyTimeout }, true},
	{"grace_period", func(c *Config) **caddy.Duration { return &c.GracePeriod }, true},
	{"shutdown_timeout", func(c *Config) **caddy.Duration { return &c.ShutdownTimeout }, true},
}

func (s durationSetting) check(d time.Duration) error {
	switch {
	case d < 0 && s.zero:
		return fmt.Errorf("must not be negative, got %s", d)
	case d <= 0 && !s.zero:
		return fmt.Errorf("must be greater than zero, got %s", d)
	case d > maxDuration:
		return fmt.Errorf("must be at most %s (100 years), got %s", maxDuration, d)
	}
	return nil
}

func (s durationSetting) set(c *Config, args []string) error {
	d, err := caddy.ParseDuration(args[0])
	if err != nil {
		return fmt.Errorf("must be a duration such as 5s, 10m or 1h, got %q", args[0])
	}
	if err := s.check(d); err != nil {
		return err
	}
	value := caddy.Duration(d)
	*s.get(c) = &value
	return nil
}

// countSetting is a setting that is a whole number, and the least it may be.
type countSetting struct {
	field string
	get   func(*Config) **int
	least int
}

var countSettings = []countSetting{
	{"health_check.rise", ofHealthCheck(func(h *HealthCheck) **int { return &h.Rise }), 1},
	{"udp_responses", func(c *Config) **int { return &c.UDPResponses }, 0},
	{"max_connections", func(c *Config) **int { return &c.MaxConnections }, 0},
	{"max_connections_per_ip", func(c *Config) **int { return &c.MaxConnectionsPerIP }, 0},
	{"max_udp_sessions", func(c *Config) **int { return &c.MaxUDPSessions }, 1},
}

func (s countSetting) check(n int) error {
	if n < s.least {
		return fmt.Errorf("must be at least %d, got %d", s.least, n)
	}
	return nil
}

func (s countSetting) set(c *Config, args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return fmt.Errorf("must be a whole number, got %q", args[0])
	}
	if err := s.check(n); err != nil {
		return err
	}
	*s.get(c) = &n
	return nil
}

// choiceSetting is a setting that is one of a few words, the default first.
type choiceSetting struct {
	field string
	get   func(*Config) *string
	words []string
}

var choiceSettings = []choiceSetting{
	{"access_log", func(c *Config) *string { return &c.AccessLog }, []string{"off", "tcp", "all"}},
	{"proxy_protocol", func(c *Config) *string { return &c.ProxyProtocol }, []string{"off", "v1", "v2"}},
	{"health_check.network", ofHealthCheck(func(h *HealthCheck) *string { return &h.Network }), []string{"tcp", "udp", "both"}},
	{"proxy_protocol_udp", func(c *Config) *string { return &c.ProxyProtocolUDP }, []string{"first", "every"}},
}

func (s choiceSetting) check(word string) error {
	for _, w := range s.words {
		if w == word {
			return nil
		}
	}
	last := len(s.words) - 1
	return fmt.Errorf("must be %s or %s, got %s", strings.Join(s.words[:last], ", "), s.words[last], quoted(word))
}

func (s choiceSetting) set(c *Config, args []string) error {
	if err := s.check(args[0]); err != nil {
		return err
	}
	*s.get(c) = args[0]
	return nil
}

// payloadSetting is a setting that stands for bytes.
type payloadSetting struct {
	field string
	get   func(*Config) *string
}

var payloadSettings = []payloadSetting{
	{"health_check.send", ofHealthCheck(func(h *HealthCheck) *string { return &h.Send })},
	{"health_check.expect", ofHealthCheck(func(h *HealthCheck) *string { return &h.Expect })},
}

func (s payloadSetting) check(text string) error {
	_, err := parsePayload(text)
	return err
}

// set leaves text with braces unchecked: what they stand for is known when the
// config is loaded.
func (s payloadSetting) set(c *Config, args []string) error {
	if args[0] == "" {
		return errors.New("must not be empty")
	}
	if !strings.ContainsAny(args[0], "{}") {
		if err := s.check(args[0]); err != nil {
			return err
		}
	}
	*s.get(c) = args[0]
	return nil
}

// ofHealthCheck makes the way to a field of the health check one that begins
// at the config.
func ofHealthCheck[T any](get func(*HealthCheck) *T) func(*Config) *T {
	return func(c *Config) *T {
		if c.HealthCheck == nil {
			return nil
		}
		return get(c.HealthCheck)
	}
}

// ofEventHook is the same for the event hook.
func ofEventHook[T any](get func(*EventHook) *T) func(*Config) *T {
	return func(c *Config) *T {
		if c.EventHook == nil {
			return nil
		}
		return get(c.EventHook)
	}
}
