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
)

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
		if d := s.get(&c); d != nil && *d != nil {
			fail(s.field, s.check(time.Duration(**d)))
		}
	}
	for _, text := range c.Resolvers {
		_, err := parseResolver(text)
		fail("resolvers", err)
	}
	for _, s := range countSettings {
		if n := s.get(&c); n != nil && *n != nil {
			fail(s.field, s.check(**n))
		}
	}
	for _, s := range choiceSettings {
		if word := s.get(&c); word != nil && *word != "" {
			fail(s.field, s.check(*word))
		}
	}
	for _, s := range payloadSettings {
		if text := s.get(&c); text != nil {
			fail(s.field, s.check(*text))
		}
	}
	c.HealthCheck.problems(fail)
	if c.Failback && c.HealthCheck == nil {
		fail("failback", errors.New("needs health_check, whose probes tell that a backend is well again"))
	}
	c.EventHook.problems(fail)
	if c.ProxyProtocolUDP != "" && c.ProxyProtocol != "v2" {
		fail("proxy_protocol_udp", errors.New("needs proxy_protocol v2, which alone has a header for UDP"))
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
