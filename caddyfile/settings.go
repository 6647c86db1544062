package caddyfile

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"
)

// The tables in this file list the settings by kind, for the grammar and for
// Validate. The field of a nested object is written "object.field". Its get
// function returns nil if the config has no such object.

// maxDuration is small enough that a few durations can be added to a point in
// time without overflow.
const maxDuration = 100 * 365 * 24 * time.Hour

// The shortest durations that are not taken for a mistake. A bare JSON number is
// in nanoseconds, so 3600 is meant as seconds and read as 3.6 microseconds. A
// health check or a lookup would then run thousands of times a second.
const (
	minDuration = time.Millisecond
	minInterval = 10 * time.Millisecond
	minDNSTTL   = time.Second
	minHedge    = 10 * time.Millisecond // shorter than most connects would double them
)

// durationSetting describes a setting that is a duration.
type durationSetting struct {
	field string
	get   func(*Config) **caddy.Duration
	min   time.Duration
	zero  bool // whether zero is allowed
}

var durationSettings = []durationSetting{
	{"connect_timeout", func(c *Config) **caddy.Duration { return &c.ConnectTimeout }, minDuration, false},
	{"idle_timeout", func(c *Config) **caddy.Duration { return &c.IdleTimeout }, minDuration, false},
	{"cooldown", func(c *Config) **caddy.Duration { return &c.Cooldown }, minDuration, true},
	{"dns_ttl", func(c *Config) **caddy.Duration { return &c.DNSTTL }, minDNSTTL, false},
	{"health_check.interval", ofHealthCheck(func(h *HealthCheck) **caddy.Duration { return &h.Interval }), minInterval, false},
	{"health_check.timeout", ofHealthCheck(func(h *HealthCheck) **caddy.Duration { return &h.Timeout }), minDuration, false},
	{"event_hook.timeout", ofEventHook(func(h *EventHook) **caddy.Duration { return &h.Timeout }), minDuration, false},
	{"hedge", func(c *Config) **caddy.Duration { return &c.Hedge }, minHedge, true},
	{"first_byte_timeout", func(c *Config) **caddy.Duration { return &c.FirstByteTimeout }, minDuration, true},
	{"hold", func(c *Config) **caddy.Duration { return &c.Hold }, minDuration, true},
	{"udp_reply_timeout", func(c *Config) **caddy.Duration { return &c.UDPReplyTimeout }, minDuration, true},
	{"grace_period", func(c *Config) **caddy.Duration { return &c.GracePeriod }, minDuration, true},
	{"shutdown_timeout", func(c *Config) **caddy.Duration { return &c.ShutdownTimeout }, minDuration, true},
	{keepAliveField, func(c *Config) **caddy.Duration { return &c.KeepAlive }, time.Second, true},
}

// keepAliveField is the one duration that the kernel limits: TCP_KEEPIDLE and
// TCP_KEEPINTVL of tcp(7) are whole seconds, MAX_TCP_KEEPIDLE at most.
const (
	keepAliveField = "keepalive"
	maxKeepAlive   = 32767 * time.Second
)

func (s durationSetting) check(d time.Duration) error {
	switch {
	case s.field == keepAliveField && d != 0 && (d < time.Second || d > maxKeepAlive || d%time.Second != 0):
		return fmt.Errorf("must be whole seconds from 1s to 32767s, or 0, got %s", d)
	case d < 0 && s.zero:
		return fmt.Errorf("must not be negative, got %s", d)
	case d <= 0 && !s.zero:
		return fmt.Errorf("must be greater than zero, got %s", d)
	case d > 0 && d < s.min:
		return fmt.Errorf("must be at least %s, got %s", s.min, d)
	case d > maxDuration:
		return fmt.Errorf("must be at most %s (100 years), got %s", maxDuration, d)
	}
	return nil
}

// checkDecoded is check for a duration decoded from JSON. If it was probably a
// bare number, the error says what to write instead.
func (s durationSetting) checkDecoded(d time.Duration) error {
	err := s.check(d)
	if err != nil && d > 0 && d < minDuration {
		return fmt.Errorf("%w; a JSON number is in nanoseconds, write \"%ds\" for %[2]d seconds", err, d.Nanoseconds())
	}
	return err
}

func (s durationSetting) set(c *Config, args []string) error {
	if s.field == keepAliveField && args[0] == "off" {
		*s.get(c) = new(caddy.Duration)
		return nil
	}
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

// countSetting describes a setting that is a whole number.
type countSetting struct {
	field string
	get   func(*Config) **int
	min   int
	max   int
}

var countSettings = []countSetting{
	{"health_check.rise", ofHealthCheck(func(h *HealthCheck) **int { return &h.Rise }), 1, math.MaxInt},
	{"health_check.port", ofHealthCheck(func(h *HealthCheck) **int { return &h.Port }), 1, math.MaxUint16},
	{"udp_responses", func(c *Config) **int { return &c.UDPResponses }, 0, math.MaxInt},
	{"max_connections", func(c *Config) **int { return &c.MaxConnections }, 0, math.MaxInt},
	{"max_connections_per_ip", func(c *Config) **int { return &c.MaxConnectionsPerIP }, 0, math.MaxInt},
	{"max_udp_sessions", func(c *Config) **int { return &c.MaxUDPSessions }, 1, math.MaxInt},
}

func (s countSetting) check(n int) error {
	if n < s.min {
		return fmt.Errorf("must be at least %d, got %d", s.min, n)
	}
	if n > s.max {
		return fmt.Errorf("must be at most %d, got %d", s.max, n)
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

// sizeSetting describes a setting that is a number of bytes.
type sizeSetting struct {
	field string
	get   func(*Config) **int
	max   int
}

var sizeSettings = []sizeSetting{
	{"rescue", func(c *Config) **int { return &c.Rescue }, 1 << 20},
}

func (s sizeSetting) check(n int) error {
	if n < 0 || n > s.max {
		return fmt.Errorf("must be a number of bytes from 0 to %d, got %d", s.max, n)
	}
	return nil
}

func (s sizeSetting) set(c *Config, args []string) error {
	size, err := humanize.ParseBytes(args[0])
	if err != nil {
		return fmt.Errorf("must be a size such as 16KiB, got %q", args[0])
	}
	n := int(min(size, math.MaxInt32))
	if err := s.check(n); err != nil {
		return err
	}
	*s.get(c) = &n
	return nil
}

// choiceSetting describes a setting that is one of a few words.
type choiceSetting struct {
	field string
	get   func(*Config) *string
	words []string // the default first
}

var choiceSettings = []choiceSetting{
	{"on_down", func(c *Config) *string { return &c.OnDown }, []string{"keep", "cut"}},
	{"access_log", func(c *Config) *string { return &c.AccessLog }, []string{"off", "tcp", "all"}},
	{"proxy_protocol", func(c *Config) *string { return &c.ProxyProtocol }, []string{"off", "v1", "v2"}},
	{"health_check.network", ofHealthCheck(func(h *HealthCheck) *string { return &h.Network }), []string{"tcp", "udp", "both"}},
	{"proxy_protocol_udp", func(c *Config) *string { return &c.ProxyProtocolUDP }, []string{"first", "every"}},
}

func (s choiceSetting) check(word string) error {
	if slices.Contains(s.words, word) {
		return nil
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

// payloadSetting describes a setting that encodes bytes.
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

// set does not check text with braces. They may be placeholders, whose values
// are known only when the config is loaded.
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

// ofHealthCheck turns the accessor of a field of the health check into one that
// starts at the config.
func ofHealthCheck[T any](get func(*HealthCheck) *T) func(*Config) *T {
	return ofObject(func(c *Config) *HealthCheck { return c.HealthCheck }, get)
}

// ofEventHook turns the accessor of a field of the event hook into one that
// starts at the config.
func ofEventHook[T any](get func(*EventHook) *T) func(*Config) *T {
	return ofObject(func(c *Config) *EventHook { return c.EventHook }, get)
}

// ofObject joins the accessor of an object of the config and that of a field of
// the object. The result returns nil if the config has no such object.
func ofObject[O, T any](object func(*Config) *O, get func(*O) *T) func(*Config) *T {
	return func(c *Config) *T {
		if o := object(c); o != nil {
			return get(o)
		}
		return nil
	}
}
