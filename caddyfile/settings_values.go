package caddyfile

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
)

// countSetting describes a setting that is a whole number.
type countSetting struct {
	field string
	usage string // for the help of flags and the schema
	get   func(*Config) **int
	min   int
	max   int
}

var countSettings = []countSetting{
	{"health_check.rise", "How many probes in a row must succeed before a failback (default: 2)", ofHealthCheck(func(h *HealthCheck) **int { return &h.Rise }), 1, math.MaxInt},
	{"health_check.port", "The port to probe (default: that of the backend)", ofHealthCheck(func(h *HealthCheck) **int { return &h.Port }), 1, math.MaxUint16},
	{"udp_responses", "UDP: ends a session after this many answers to each datagram of the client (default: off)", func(c *Config) **int { return &c.UDPResponses }, 0, math.MaxInt},
	{"max_connections", "The maximum number of concurrent relays of the service (default: no limit)", func(c *Config) **int { return &c.MaxConnections }, 0, math.MaxInt},
	{"max_connections_per_ip", "The maximum number of concurrent relays of one client address (default: no limit)", func(c *Config) **int { return &c.MaxConnectionsPerIP }, 0, math.MaxInt},
	{"max_udp_sessions", "The maximum number of concurrent UDP sessions of the service (default: the limit of the process)", func(c *Config) **int { return &c.MaxUDPSessions }, 1, math.MaxInt},
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

// value returns what the argument stands for.
func (s countSetting) value() string {
	if strings.HasSuffix(s.field, ".port") {
		return "<port>"
	}
	return "<count>"
}

func (s countSetting) text(c *Config) (string, bool) {
	n := s.get(c)
	if n == nil || *n == nil {
		return "", false
	}
	return strconv.Itoa(**n), true
}

// sizeSetting describes a setting that is a number of bytes.
type sizeSetting struct {
	field string
	usage string // for the help of flags and the schema
	get   func(*Config) **int
	max   int
}

var sizeSettings = []sizeSetting{
	{"rescue", "TCP: how many bytes of a client are kept until its backend has answered, to be sent to the next backend if it fails (default: off)", func(c *Config) **int { return &c.Rescue }, 1 << 20},
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

// text returns the size with a unit if it is a multiple of it.
func (s sizeSetting) text(c *Config) (string, bool) {
	n := s.get(c)
	switch {
	case n == nil || *n == nil:
		return "", false
	case **n > 0 && **n%1024 == 0:
		return strconv.Itoa(**n/1024) + "KiB", true
	}
	return strconv.Itoa(**n), true
}

// choiceSetting describes a setting that is one of a few words.
type choiceSetting struct {
	field string
	usage string // for the help of flags and the schema
	get   func(*Config) *string
	words []string // the default first, where one of them is the default
}

var choiceSettings = []choiceSetting{
	{"prefer", "The address family of names that is tried first (default: the order of RFC 6724)", func(c *Config) *string { return &c.Prefer }, []string{"ipv4", "ipv6"}},
	{"only", "The address family of names that is looked up and tried (default: both)", func(c *Config) *string { return &c.Only }, []string{"ipv4", "ipv6"}},
	{"on_down", "What a demotion does to the clients of the backend (default: keep)", func(c *Config) *string { return &c.OnDown }, []string{"keep", "cut"}},
	{"access_log", "Which relays write a log line when they end (default: off)", func(c *Config) *string { return &c.AccessLog }, []string{"off", "tcp", "all"}},
	{"proxy_protocol", "The version of the PROXY protocol header that is sent to backends (default: off)", func(c *Config) *string { return &c.ProxyProtocol }, []string{"off", "v1", "v2"}},
	{"health_check.network", "The network whose state the probes decide (default: tcp)", ofHealthCheck(func(h *HealthCheck) *string { return &h.Network }), []string{"tcp", "udp", "both"}},
	{"proxy_protocol_udp", "Which datagrams of a UDP session carry the PROXY protocol header (default: first)", func(c *Config) *string { return &c.ProxyProtocolUDP }, []string{"first", "every"}},
}

func (s choiceSetting) check(word string) error {
	if slices.Contains(s.words, word) {
		return nil
	}
	last := len(s.words) - 1
	return fmt.Errorf("must be %s or %s, got %s", strings.Join(s.words[:last], ", "), s.words[last], Quoted(word))
}

func (s choiceSetting) set(c *Config, args []string) error {
	if err := s.check(args[0]); err != nil {
		return err
	}
	*s.get(c) = args[0]
	return nil
}

func (s choiceSetting) text(c *Config) (string, bool) { return written(s.get(c)) }

// payloadSetting describes a setting that encodes bytes.
type payloadSetting struct {
	field string
	usage string // for the help of flags and the schema
	get   func(*Config) *string
}

var payloadSettings = []payloadSetting{
	{"health_check.send", "The payload that a probe sends: text with escapes, or hex: and digits", ofHealthCheck(func(h *HealthCheck) *string { return &h.Send })},
	{"health_check.expect", "The bytes that the answer to a probe must contain", ofHealthCheck(func(h *HealthCheck) *string { return &h.Expect })},
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

func (s payloadSetting) text(c *Config) (string, bool) { return written(s.get(c)) }

// written returns the text of a field. A nil or empty one is not set.
func written(field *string) (text string, isSet bool) {
	if field == nil {
		return "", false
	}
	return *field, *field != ""
}
