package caddyfile

import (
	"math"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

func lasting(d time.Duration) *caddy.Duration { return (*caddy.Duration)(&d) }

func number(n int) *int { return &n }

func TestValidateAccepts(t *testing.T) {
	for _, c := range []Config{
		{Backends: []string{"example.com:80"}},
		{Backends: []string{"example.com:80", "example.com:81", "[::1]:80", "127.0.0.1:80"}, Name: "Büro – 1"},
		{
			Backends: []string{"a:1"}, ConnectTimeout: lasting(1), IdleTimeout: lasting(maxDuration), Cooldown: lasting(0),
			DNSTTL: lasting(time.Hour), UDPReplyTimeout: lasting(0), UDPResponses: number(0), MaxUDPSessions: number(1),
			GracePeriod: lasting(0), ShutdownTimeout: lasting(0),
			Resolvers: []string{"1.1.1.1", "1.1.1.1:5353", "::1", "[::1]", "[::1]:5353", "fe80::1%eth0"},
		},
		{Backends: []string{"a:1"}, GracePeriod: lasting(maxDuration), ShutdownTimeout: lasting(maxDuration)},
	} {
		if err := c.Validate(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestValidateRefuses(t *testing.T) {
	web := func(change func(*Config)) Config {
		c := Config{Name: "web", Backends: []string{"example.com:80"}}
		change(&c)
		return c
	}
	for _, tt := range []struct {
		c    Config
		want string
	}{
		{Config{Name: "web"}, "service web: backends: must list at least one host:port, got none"},
		{Config{}, "service without name and backends: backends: must list at least one host:port, got none"},
		{Config{Backends: []string{"a", "b:1"}}, `service a,b:1: backends: "a": port is missing; expected host:port`},
		{web(func(c *Config) { c.Name = " " }), `service " ": name: must not be blank, got " "`},
		{web(func(c *Config) { c.Name = "a\nb" }), `service "a\nb": name: must not contain control characters, got "a\nb"`},
		{web(func(c *Config) { c.Name = "a\xff" }), `service "a\xff": name: must be valid UTF-8, got "a\xff"`},
		{web(func(c *Config) { c.Backends = []string{"bücher.example:80", "XN--bcher-kva.Example:80"} }),
			`service web: backends: "XN--bcher-kva.Example:80": must be listed once, is the same backend as "bücher.example:80"`},
		{web(func(c *Config) { c.Backends = []string{"[::1]:80", "[0::1]:80"} }),
			`service web: backends: "[0::1]:80": must be listed once, is the same backend as "[::1]:80"`},
		{web(func(c *Config) { c.Backends = []string{"1.2.3.4:80", "[::ffff:1.2.3.4]:80"} }),
			`service web: backends: "[::ffff:1.2.3.4]:80": must be listed once, is the same backend as "1.2.3.4:80"`},
		{web(func(c *Config) { c.ConnectTimeout = lasting(0) }), "service web: connect_timeout: must be greater than zero, got 0s"},
		{web(func(c *Config) { c.IdleTimeout = lasting(-time.Second) }), "service web: idle_timeout: must be greater than zero, got -1s"},
		{web(func(c *Config) { c.DNSTTL = lasting(0) }), "service web: dns_ttl: must be greater than zero, got 0s"},
		{web(func(c *Config) { c.Cooldown = lasting(-1) }), "service web: cooldown: must not be negative, got -1ns"},
		{web(func(c *Config) { c.UDPReplyTimeout = lasting(-1) }), "service web: udp_reply_timeout: must not be negative, got -1ns"},
		{web(func(c *Config) { c.GracePeriod = lasting(-1) }), "service web: grace_period: must not be negative, got -1ns"},
		{web(func(c *Config) { c.ShutdownTimeout = lasting(-time.Second) }), "service web: shutdown_timeout: must not be negative, got -1s"},
		{web(func(c *Config) { c.Cooldown = lasting(math.MaxInt64) }),
			"service web: cooldown: must be at most 876000h0m0s (100 years), got 2562047h47m16.854775807s"},
		{web(func(c *Config) { c.UDPResponses = number(-1) }), "service web: udp_responses: must be at least 0, got -1"},
		{web(func(c *Config) { c.MaxUDPSessions = number(0) }), "service web: max_udp_sessions: must be at least 1, got 0"},
	} {
		if err := tt.c.Validate(); err == nil || err.Error() != tt.want {
			t.Errorf("%+v:\ngot  %v\nwant %s", tt.c, err, tt.want)
		}
	}
}

func TestValidateRefusesResolvers(t *testing.T) {
	for _, text := range []string{"", "dns.example", "1.1.1.1:", "1.1.1.1:0", "1.1.1.1:65536", "1.1.1.1:dns", " 1.1.1.1",
		"[1.1.1.1]", "[::1", "::1]", "[::1]x", "udp/1.1.1.1", "1.1.1", "fe80::1%a b"} {
		err := Config{Name: "web", Backends: []string{"a:1"}, Resolvers: []string{text}}.Validate()
		if err == nil || !strings.HasPrefix(err.Error(), "service web: resolvers: "+strconv.Quote(text)+": must be an address") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestValidateReportsAll(t *testing.T) {
	err := Config{
		Name: "\t", ConnectTimeout: lasting(0), Resolvers: []string{"x", "y"}, MaxUDPSessions: number(-1),
		Backends: []string{"a", "b", "c:1", "C:1"},
	}.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	var fields []string
	for line := range strings.Lines(err.Error()) {
		fields = append(fields, strings.Split(line, ": ")[1])
	}
	want := "name backends backends backends connect_timeout resolvers resolvers max_udp_sessions"
	if got := strings.Join(fields, " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestOptions(t *testing.T) {
	plain := Config{Backends: []string{"a:1", "[::ffff:1.2.3.4]:2"}}
	want := Options{
		Service: "a:1,[::ffff:1.2.3.4]:2",
		Backends: []Backend{
			{Text: "a:1", Host: "a", Port: 1},
			{Text: "1.2.3.4:2", Host: "1.2.3.4", Port: 2, Addr: netip.MustParseAddr("1.2.3.4")},
		},
		ConnectTimeout: 5 * time.Second, IdleTimeout: 5 * time.Minute, DNSTTL: time.Hour,
		ShutdownTimeout: 10 * time.Second,
	}
	if got := plain.Options(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}

	full := Config{
		Name: "x", Backends: []string{"a:1"}, ConnectTimeout: lasting(1), IdleTimeout: lasting(2), Cooldown: lasting(3),
		DNSTTL: lasting(4), Resolvers: []string{"1.1.1.1", "::ffff:1.1.1.2", "[::1]:5353", "fe80::1%eth0"}, UDPReplyTimeout: lasting(5),
		UDPResponses: number(6), MaxUDPSessions: number(7), GracePeriod: lasting(8), ShutdownTimeout: lasting(9),
	}
	want = Options{
		Service: "x", Named: true, Backends: []Backend{{Text: "a:1", Host: "a", Port: 1}},
		ConnectTimeout: 1, IdleTimeout: 2, Cooldown: 3, DNSTTL: 4, UDPReplyTimeout: 5, UDPResponses: 6, MaxUDPSessions: 7,
		GracePeriod: 8, ShutdownTimeout: 9,
		Resolvers: []netip.AddrPort{netip.MustParseAddrPort("1.1.1.1:53"), netip.MustParseAddrPort("1.1.1.2:53"),
			netip.MustParseAddrPort("[::1]:5353"), netip.MustParseAddrPort("[fe80::1%eth0]:53")},
	}
	if got := full.Options(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}

	// Zero is a setting of its own where the default is another.
	if got := (Config{ShutdownTimeout: lasting(0)}).Options().ShutdownTimeout; got != 0 {
		t.Errorf("shutdown_timeout 0 became %s", got)
	}
}

// TestOneSetOfFields keeps the struct, the grammar and Diff in step.
func TestOneSetOfFields(t *testing.T) {
	var inStruct, inDiff []string
	for i := range reflect.TypeFor[Config]().NumField() {
		name, rest, _ := strings.Cut(reflect.TypeFor[Config]().Field(i).Tag.Get("json"), ",")
		if rest != "omitempty" {
			t.Errorf("%s: written even when absent", name)
		}
		inStruct = append(inStruct, name)
		option := name
		if name == "backends" {
			option = "backend"
		}
		if _, ok := options[option]; !ok {
			t.Errorf("%s: can not be written in a Caddyfile", name)
		}
	}
	for _, s := range (Config{}).settings() {
		inDiff = append(inDiff, s.field)
	}
	if !reflect.DeepEqual(inStruct, inDiff) {
		t.Errorf("fields of Config %v, of Diff %v", inStruct, inDiff)
	}
	if len(options) != len(inStruct) {
		t.Errorf("%d options for %d fields", len(options), len(inStruct))
	}
}

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
			c.ConnectTimeout, c.IdleTimeout, c.Cooldown = lasting(DefaultConnectTimeout), lasting(DefaultIdleTimeout), lasting(0)
			c.DNSTTL, c.UDPReplyTimeout, c.UDPResponses = lasting(DefaultDNSTTL), lasting(0), number(0)
			c.GracePeriod, c.ShutdownTimeout = lasting(0), lasting(DefaultShutdownTimeout)
		}), "", "", ""},
		{web(func(c *Config) { c.Name = "x" }), "name", "web", "x"},
		{web(func(c *Config) { c.Backends = []string{"b:1", "a:1"} }), "backends", "a:1, b:1", "b:1, a:1"},
		{web(func(c *Config) { c.Backends = nil }), "backends", "a:1, b:1", "none"},
		{web(func(c *Config) { c.ConnectTimeout = lasting(time.Second); c.Cooldown = lasting(1) }), "connect_timeout", "5s", "1s"},
		{web(func(c *Config) { c.IdleTimeout = lasting(90 * time.Minute) }), "idle_timeout", "5m", "1h30m"},
		{web(func(c *Config) { c.Cooldown = lasting(100 * time.Hour) }), "cooldown", "0s", "100h"},
		{web(func(c *Config) { c.DNSTTL = lasting(10 * time.Second) }), "dns_ttl", "1h", "10s"},
		{web(func(c *Config) { c.Resolvers = []string{"1.1.1.1"} }), "resolvers", "the system's", "1.1.1.1"},
		{web(func(c *Config) { c.UDPReplyTimeout = lasting(1) }), "udp_reply_timeout", "0s", "1ns"},
		{web(func(c *Config) { c.UDPResponses = number(1) }), "udp_responses", "0", "1"},
		{web(func(c *Config) { c.MaxUDPSessions = number(1) }), "max_udp_sessions", "default", "1"},
		{web(func(c *Config) { c.GracePeriod = lasting(time.Minute) }), "grace_period", "0s", "1m"},
		{web(func(c *Config) { c.ShutdownTimeout = lasting(0) }), "shutdown_timeout", "10s", "0s"},
	} {
		if field, av, bv := Diff(base, tt.b); field != tt.field || av != tt.av || bv != tt.bv {
			t.Errorf("got %q %q %q, want %q %q %q", field, av, bv, tt.field, tt.av, tt.bv)
		}
		if field, av, bv := Diff(tt.b, base); field != tt.field || av != tt.bv || bv != tt.av {
			t.Errorf("the other way: got %q %q %q", field, av, bv)
		}
	}
}
