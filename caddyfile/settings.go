package caddyfile

import (
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// The tables in this file and in settings_values.go list the settings by kind, for the grammar and for
// Validate. The field of a nested object is written "object.field". Its get
// function returns nil if the config has no such object.

// MaxDuration is the longest duration of a setting. It is small enough that a few durations can be added to a point in
// time without overflow.
const MaxDuration = 100 * 365 * 24 * time.Hour

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
	usage string // for the help of flags and the schema
	get   func(*Config) **caddy.Duration
	min   time.Duration
	zero  bool // whether zero is allowed
}

var durationSettings = []durationSetting{
	{"connect_timeout", "The time limit of one attempt on one backend (default: 5s)", func(c *Config) **caddy.Duration { return &c.ConnectTimeout }, minDuration, false},
	{"idle_timeout", "Ends a relay in which nothing has passed in either direction for this long (default: 5m)", func(c *Config) **caddy.Duration { return &c.IdleTimeout }, minDuration, false},
	{"cooldown", "How long a backend is passed over after its second strike (default: off)", func(c *Config) **caddy.Duration { return &c.Cooldown }, minDuration, true},
	{"health_check.interval", "The time between two probes of a backend (default: 60s)", ofHealthCheck(func(h *HealthCheck) **caddy.Duration { return &h.Interval }), minInterval, false},
	{"health_check.timeout", "The time limit of one probe (default: 5s)", ofHealthCheck(func(h *HealthCheck) **caddy.Duration { return &h.Timeout }), minDuration, false},
	{"event_hook.timeout", "The time limit of the command (default: 30s)", ofEventHook(func(h *EventHook) **caddy.Duration { return &h.Timeout }), minDuration, false},
	{"hedge", "TCP: dials the next backend in parallel when an attempt has had no result for this long (default: off)", func(c *Config) **caddy.Duration { return &c.Hedge }, minHedge, true},
	{"first_byte_timeout", "TCP: fails a backend that sends nothing for this long after the first bytes of the client (default: off)", func(c *Config) **caddy.Duration { return &c.FirstByteTimeout }, minDuration, true},
	{"hold", "How long a client that no backend accepts waits for one to recover (default: off)", func(c *Config) **caddy.Duration { return &c.Hold }, minDuration, true},
	{"udp_reply_timeout", "UDP: fails a backend that has answered no datagram for this long (default: off)", func(c *Config) **caddy.Duration { return &c.UDPReplyTimeout }, minDuration, true},
	{"grace_period", "How long relays may continue after a reload removed their service (default: no limit)", func(c *Config) **caddy.Duration { return &c.GracePeriod }, minDuration, true},
	{"shutdown_timeout", "How long relays may continue after the signal to stop (default: 10s)", func(c *Config) **caddy.Duration { return &c.ShutdownTimeout }, minDuration, true},
	{keepAliveField, "The idle time before TCP keep-alive probes, and the interval between them (default: 15s)", func(c *Config) **caddy.Duration { return &c.KeepAlive }, time.Second, true},
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
	case d > MaxDuration:
		return fmt.Errorf("must be at most %s (100 years), got %s", MaxDuration, d)
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

// text returns the duration as a Caddyfile has it.
func (s durationSetting) text(c *Config) (string, bool) {
	d := s.get(c)
	switch {
	case d == nil || *d == nil:
		return "", false
	case s.field == keepAliveField && **d == 0:
		return "off", true
	}
	return FormatDuration(time.Duration(**d)), true
}

// value returns what the argument stands for.
func (s durationSetting) value() string {
	if s.field == keepAliveField {
		return "<duration>|off"
	}
	return "<duration>"
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

// ofHealthCheckText returns a function that returns a text of the health check as
// the only argument of an option.
func ofHealthCheckText(get func(*HealthCheck) string) func(*Config) ([]string, bool) {
	return func(c *Config) ([]string, bool) {
		if c.HealthCheck == nil {
			return nil, false
		}
		text := get(c.HealthCheck)
		return []string{text}, text != ""
	}
}
