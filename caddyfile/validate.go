package caddyfile

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
)

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

// countSetting is a setting that is a whole number, and the least it may be.
type countSetting struct {
	field string
	get   func(*Config) **int
	least int
}

var countSettings = []countSetting{
	{"udp_responses", func(c *Config) **int { return &c.UDPResponses }, 0},
	{"max_udp_sessions", func(c *Config) **int { return &c.MaxUDPSessions }, 1},
}

func (s countSetting) check(n int) error {
	if n < s.least {
		return fmt.Errorf("must be at least %d, got %d", s.least, n)
	}
	return nil
}

// Validate reports everything that is wrong with the config, one problem a
// line, each with the service, the field, the value and what was expected:
//
//	service web-proxy: connect_timeout: must be greater than zero, got 0s
//
// Placeholders must have been resolved before, see [Config.Resolved].
func (c Config) Validate() error {
	var problems []error
	fail := func(field string, err error) {
		if err != nil {
			problems = append(problems, c.problem(field, err))
		}
	}

	fail("name", checkServiceName(c.Name))
	for _, err := range checkBackends(c.Backends) {
		fail("backends", err)
	}
	for _, s := range durationSettings {
		if d := *s.get(&c); d != nil {
			fail(s.field, s.check(time.Duration(*d)))
		}
	}
	for _, text := range c.Resolvers {
		_, err := parseResolver(text)
		fail("resolvers", err)
	}
	for _, s := range countSettings {
		if n := *s.get(&c); n != nil {
			fail(s.field, s.check(*n))
		}
	}
	return errors.Join(problems...)
}

// problem says which setting of which service err is about.
func (c Config) problem(field string, err error) error {
	service := c.Service()
	if service == "" {
		service = "without name and backends"
	} else if checkServiceName(service) != nil {
		service = strconv.Quote(service)
	}
	return fmt.Errorf("service %s: %s: %w", service, field, err)
}

// checkServiceName refuses what would make a log line or a label unreadable.
// The empty name is fine: it is the absent one.
func checkServiceName(name string) error {
	switch {
	case name == "":
		return nil
	case !utf8.ValidString(name):
		return fmt.Errorf("must be valid UTF-8, got %q", name)
	case strings.TrimSpace(name) == "":
		return fmt.Errorf("must not be blank, got %q", name)
	case strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("must not contain control characters, got %q", name)
	}
	return nil
}

func checkBackends(texts []string) (problems []error) {
	if len(texts) == 0 {
		return []error{errors.New("must list at least one host:port, got none")}
	}
	seen := make(map[endpoint]string, len(texts))
	for _, text := range texts {
		b, err := ParseBackend(text)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if first, ok := seen[b.endpoint()]; ok {
			problems = append(problems, fmt.Errorf("%q: must be listed once, is the same backend as %q", text, first))
			continue
		}
		seen[b.endpoint()] = text
	}
	return problems
}

// parseResolver reads "ip" or "ip:port". Brackets around IPv6 may be left out
// where no port follows.
func parseResolver(text string) (netip.AddrPort, error) {
	const dns = "53"
	r, err := netip.ParseAddrPort(text)
	if err != nil {
		r, err = netip.ParseAddrPort(text + ":" + dns)
	}
	if err != nil {
		r, err = netip.ParseAddrPort("[" + text + "]:" + dns)
	}
	if err != nil || r.Port() == 0 || strings.ContainsFunc(text, blankOrControl) || !plainZone(r.Addr()) {
		return netip.AddrPort{}, fmt.Errorf("%q: must be an address or address:port, with a port from 1 to 65535", text)
	}
	return netip.AddrPortFrom(r.Addr().Unmap(), r.Port()), nil
}
