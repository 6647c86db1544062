package caddyfile

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Validate reports all problems of the config, one per line. Each line has the
// service, the field, the value and what was expected:
//
//	service "web-proxy": connect_timeout: must be greater than zero, got 0s
//
// Call [Config.Resolved] first, because placeholders are not valid here.
func (c Config) Validate() error {
	var problems []error
	c.EachProblem(func(field string, err error) { problems = append(problems, c.problem(field, err)) })
	return errors.Join(problems...)
}

// EachProblem calls report for each problem of the config, with its field as in
// [Config.Validate].
func (c Config) EachProblem(report func(field string, err error)) {
	fail := func(field string, err error) {
		if err != nil {
			report(field, err)
		}
	}
	fail("name", checkServiceName(c.Name))
	for _, err := range checkBackends(c.Backends) {
		fail("backends", err)
	}
	for _, s := range durationSettings {
		if d := s.get(&c); d != nil && *d != nil {
			fail(s.field, s.checkDecoded(time.Duration(**d)))
		}
	}
	for _, text := range c.Resolvers {
		_, err := parseResolver(text)
		fail("resolvers", err)
	}
	fail("dns_ttl", c.DNSTTL.check())
	if c.Prefer != "" && c.Only != "" && c.Prefer != c.Only {
		fail("prefer", fmt.Errorf("must not be %s with only %s, which leaves no addresses of that family", c.Prefer, c.Only))
	}
	fail("allow", checkAllow(c.Allow))
	fail("deny", checkPrefixes(c.Deny))
	for _, s := range countSettings {
		if n := s.get(&c); n != nil && *n != nil {
			fail(s.field, s.check(**n))
		}
	}
	for _, s := range sizeSettings {
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
	c.HealthCheck.validate(fail)
	if c.HealthCheck != nil && c.HealthCheck.Port == nil && slices.ContainsFunc(c.Options().Backends, func(b Backend) bool { return b.ClientPort }) {
		fail("health_check.port", fmt.Errorf("required, because a backend has the port of each client (%s)", clientPort))
	}
	if c.Failback != FailbackOff && c.HealthCheck == nil {
		fail("failback", errors.New("requires health_check, whose probes decide when a backend returns"))
	}
	c.EventHook.validate(fail)
	if c.ProxyProtocolUDP != "" && c.ProxyProtocol != "v2" {
		fail("proxy_protocol_udp", errors.New("requires proxy_protocol v2, because v1 has no header for UDP"))
	}
}

// problem adds the service and the field to err.
func (c Config) problem(field string, err error) error {
	service := "without name and backends"
	if c.Service() != "" {
		service = strconv.Quote(c.Service())
	}
	return fmt.Errorf("service %s: %s: %w", service, field, err)
}

// checkServiceName rejects names that would make a log line or a metrics label
// unreadable. The empty name is valid and means that there is none.
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
	seen := make(map[Backend]string, len(texts))
	for _, text := range texts {
		b, err := ParseBackend(text)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if first, ok := seen[b.Identity()]; ok {
			problems = append(problems, fmt.Errorf("%q: listed twice, first as %q", text, first))
			continue
		}
		seen[b.Identity()] = text
	}
	return problems
}
