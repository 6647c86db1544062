package caddyfile

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Each kind of check has a description, and what it sends and expects.
func TestHealthCheckKinds(t *testing.T) {
	for _, tt := range []struct {
		check   HealthCheck
		kind    string
		send    string
		healthy []string
		sick    []string
	}{
		{HealthCheck{}, "connect", "", nil, nil},
		{HealthCheck{Send: "x"}, "send", "x", nil, nil},
		{HealthCheck{Expect: "220"}, "expect", "", []string{"220 mail"}, []string{"554"}},
		{HealthCheck{HTTP: "/primary", Port: intPtr(8008)}, "http /primary on port 8008", "", nil, nil},
		{HealthCheck{Redis: "any"}, "redis", "PING\r\n",
			[]string{"+PONG\r\n", "-NOAUTH Authentication required.\r\n"},
			[]string{"-LOADING Redis is loading the dataset in memory\r\n", "-ERR max number of clients reached\r\n", "-MASTERDOWN x\r\n"}},
		{HealthCheck{Redis: "master"}, "redis master", "ROLE\r\n",
			[]string{"*3\r\n$6\r\nmaster\r\n:3129659\r\n*0\r\n"},
			[]string{"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:9000\r\n$9\r\nconnected\r\n:3167038\r\n", "-NOAUTH x\r\n"}},
		{HealthCheck{Postgres: true}, "postgres", "\x00\x00\x00\x29\x00\x03\x00\x00user\x00postgres\x00database\x00postgres\x00\x00",
			[]string{"R\x00\x00\x00\x08\x00\x00\x00\x00", "R\x00\x00\x00\x17\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00", "E\x00\x00\x00\x52SFATAL\x00VFATAL\x00C28000\x00Mno entry\x00"},
			[]string{"E\x00\x00\x00\x52SFATAL\x00VFATAL\x00C57P03\x00Mthe database system is starting up\x00", "E\x00\x00\x00\x52SFATAL\x00VFATAL\x00C53300\x00Mtoo many clients\x00"}},
	} {
		o := Config{HealthCheck: &tt.check}.Options().HealthCheck
		if o.Kind != tt.kind || string(o.Send) != tt.send {
			t.Errorf("got %s that sends %q, want %s that sends %q", o.Kind, o.Send, tt.kind, tt.send)
		}
		passes := func(answer string) bool {
			return slices.ContainsFunc(o.Expect, func(text []byte) bool { return bytes.Contains([]byte(answer), text) })
		}
		for _, answer := range tt.healthy {
			if !passes(answer) {
				t.Errorf("%s fails with %q", tt.kind, answer)
			}
		}
		for _, answer := range tt.sick {
			if passes(answer) {
				t.Errorf("%s passes with %q", tt.kind, answer)
			}
		}
	}
}

// The query of a DNS check is answered with every combination of flags that a
// server may set. Errors and other ids fail.
func TestHealthCheckDNS(t *testing.T) {
	for name, want := range map[string]string{"example.com": "example.com.", "example.com.": "example.com.", ".": "."} {
		o := Config{HealthCheck: &HealthCheck{DNS: name}}.Options().HealthCheck
		var query dnsmessage.Message
		relaytest.Check(t, query.Unpack(o.Send))
		if len(query.Questions) != 1 || query.Questions[0].Name.String() != want || query.Questions[0].Type != dnsmessage.TypeA || !query.RecursionDesired || !o.Framed {
			t.Errorf("%s: query %+v, framed %v", name, query, o.Framed)
		}
		passes := func(h dnsmessage.Header) bool {
			answer := query
			answer.Header = h
			packed, err := answer.Pack()
			relaytest.Check(t, err)
			return slices.ContainsFunc(o.Expect, func(text []byte) bool { return bytes.Contains(packed, text) })
		}
		healthy := dnsmessage.Header{ID: query.ID, Response: true, RecursionDesired: true}
		for bits := range 1 << 5 {
			h := healthy
			for i, flag := range []*bool{&h.Authoritative, &h.Truncated, &h.RecursionAvailable, &h.AuthenticData, &h.CheckingDisabled} {
				*flag = bits>>i&1 == 1
			}
			if !passes(h) {
				t.Errorf("fails with %+v", h)
			}
			for _, code := range []dnsmessage.RCode{dnsmessage.RCodeServerFailure, dnsmessage.RCodeNameError, dnsmessage.RCodeRefused} {
				h.RCode = code
				if passes(h) {
					t.Errorf("passes with %+v", h)
				}
			}
		}
		if passes(query.Header) {
			t.Error("passes with an echo of the query")
		}
		other := healthy
		other.ID++
		if passes(other) {
			t.Error("passes with another id")
		}
	}
}

func TestParseHTTPRange(t *testing.T) {
	for text, want := range map[string]HTTPRange{"200": {200, 200}, "2xx": {200, 299}, "100-599": {100, 599}, "404-410": {404, 410}} {
		if got, err := parseHTTPRange(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "xx", "0xx", "6xx", "99", "600", "0200", "+20", "2000", "200-", "-200", "300-200", "200-299-300", "-1xx", "2XX", "20x"} {
		if got, err := parseHTTPRange(text); err == nil {
			t.Errorf("%q is accepted as %+v", text, got)
		}
	}
}

func TestCheckPathAndHost(t *testing.T) {
	for _, path := range []string{"/", "/primary?lag=1MB", "/a%20b", "/ü"} {
		relaytest.Check(t, checkPath(path))
	}
	for _, path := range []string{"", "a", "*", "//a.test/", "/a b", "/a#b", "/%zz", "/a\r\nX: y", "a.test:80"} {
		if checkPath(path) == nil {
			t.Errorf("path %q is accepted", path)
		}
	}
	for _, host := range []string{"a.test", "a.test:8008", "192.0.2.1", "[2001:db8::1]:80"} {
		relaytest.Check(t, checkHost(host))
	}
	for _, host := range []string{"", "a/b", "a b", "a\r\nX: y", "user@a.test", "a.test:x"} {
		if checkHost(host) == nil {
			t.Errorf("host %q is accepted", host)
		}
	}
}

// Each field of the objects is compared by its effective value.
func TestDiffOfHealthChecks(t *testing.T) {
	with := func(h HealthCheck) Config { return Config{Backends: []string{"a:1"}, HealthCheck: &h} }
	for field, tt := range map[string]struct {
		a, b   HealthCheck
		av, bv string
	}{
		"":                         {HealthCheck{HTTP: "/", HTTPStatus: []string{"2xx"}}, HealthCheck{HTTP: "/"}, "", ""},
		"health_check.port":        {HealthCheck{}, HealthCheck{Port: intPtr(80)}, "that of the backend", "80"},
		"health_check.http":        {HealthCheck{}, HealthCheck{HTTP: "/"}, "off", "/"},
		"health_check.http_status": {HealthCheck{HTTP: "/"}, HealthCheck{HTTP: "/", HTTPStatus: []string{"204", "3xx"}}, "200-299", "204-204, 300-399"},
		"health_check.host":        {HealthCheck{HTTP: "/"}, HealthCheck{HTTP: "/", Host: "a"}, "the probed address", "a"},
		"health_check.redis":       {HealthCheck{Redis: "any"}, HealthCheck{Redis: "master"}, "any", "master"},
		"health_check.postgres":    {HealthCheck{}, HealthCheck{Postgres: true}, "off", "on"},
		"health_check.dns":         {HealthCheck{}, HealthCheck{DNS: "a.test"}, "off", "a.test"},
	} {
		t.Run(fmt.Sprintf("field %s", field), func(t *testing.T) { checkDiff(t, with(tt.a), with(tt.b), field, tt.av, tt.bv) })
	}
}
