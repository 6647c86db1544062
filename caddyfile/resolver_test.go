package caddyfile

import (
	"strings"
	"testing"
)

func TestParseResolver(t *testing.T) {
	for in, want := range map[string]Resolver{
		"9.9.9.9":                       {Text: "9.9.9.9:53", Addr: "9.9.9.9:53"},
		"tls://9.9.9.9":                 {Text: "tls://9.9.9.9:853", Scheme: "tls", Addr: "9.9.9.9:853", TLSName: "9.9.9.9"},
		"TLS://Dns.Example:8853":        {Text: "tls://dns.example:8853", Scheme: "tls", Addr: "dns.example:8853", TLSName: "dns.example"},
		"tls://[::1]#dns.example":       {Text: "tls://[::1]:853#dns.example", Scheme: "tls", Addr: "[::1]:853", TLSName: "dns.example"},
		"https://dns.example/dns-query": {Text: "https://dns.example/dns-query", Scheme: "https", URL: "https://dns.example/dns-query"},
		"HTTPS://[::1]:444/q?x=1":       {Text: "https://[::1]:444/q?x=1", Scheme: "https", URL: "https://[::1]:444/q?x=1"},
	} {
		if got, err := parseResolver(in); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"tls://":                     "is not a host name",
		"tls://::1":                  "is not a host name",
		"tls://[::1":                 "is not an IPv6 address",
		"tls://a:0":                  "port must be 1 to 65535, got 0",
		"tls://a#b c":                "must be",
		"tls://a/b":                  "'/' is not allowed",
		"https://dns.example":        "the path is missing, which is mostly /dns-query",
		"https://dns.example/":       "the path is missing",
		"https://u@dns.example/q":    "must be",
		"https://dns.example:x/q":    "must be",
		"https://dns.example/q#name": "must be",
		"http://dns.example/q":       "must be",
		"quic://dns.example":         "must be",
	} {
		if _, err := parseResolver(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", in, err, want)
		}
	}
}
