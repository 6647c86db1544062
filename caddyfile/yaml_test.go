package caddyfile

import (
	"context"
	"math"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"go.yaml.in/yaml/v3"
)

// TestScalars has the types and values that PyYAML gives each text.
func TestScalars(t *testing.T) {
	for text, want := range map[string]any{
		"":               nil,
		"~":              nil,
		"null":           nil,
		"nUll":           "nUll",
		`""`:             "",
		"yes":            true,
		"On":             true,
		"OFF":            false,
		"no":             false,
		"True":           true,
		"tRue":           "tRue",
		"y":              "y",
		`"yes"`:          "yes",
		"'no'":           "no",
		"0":              0,
		"8080":           8080,
		"-1":             -1,
		"+8080":          8080,
		"8_080":          8080,
		"0x1F90":         8080,
		"-0x10":          -16,
		"0b101":          5,
		"017700":         8128,
		"08080":          "08080",
		"0o17":           "0o17",
		"22:22":          1342,
		"1:00:00":        3600,
		"-1:30":          -90,
		"1:60":           "1:60",
		"10:80":          "10:80",
		"8080.0":         8080.0,
		"1_0.5":          10.5,
		".5":             0.5,
		"5.":             5.0,
		"1.5e+3":         1500.0,
		"1.5e3":          "1.5e3",
		"8e3":            "8e3",
		"1:30.5":         90.5,
		".inf":           math.Inf(1),
		"-.INF":          math.Inf(-1),
		"infinity":       "infinity",
		"10.0.0.1":       "10.0.0.1",
		"10.0.0.1:80":    "10.0.0.1:80",
		"2001-01-01":     "2001-01-01",
		`!!int "8080"`:   8080,
		`!!int "x"`:      "x",
		`!!str 8080`:     "8080",
		`!!float "5"`:    5.0,
		`!!float 5`:      5.0,
		`!!bool "yes"`:   true,
		`!!null x`:       nil,
		"|\n  8080":      "8080",
		">-\n  yes":      "yes",
		"! 5":            5,
		"99999999999999": 99999999999999,
	} {
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte("a: "+text+"\n"), &doc); err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		got := resolveScalar(doc.Content[0].Content[1])
		var value any
		switch got.kind {
		case scalarText:
			value = strings.TrimSuffix(got.text, "\n")
		case scalarBool:
			value = got.truth
		case scalarInt:
			value = int(got.number)
		case scalarFloat:
			value = got.number
		}
		if value != want {
			t.Errorf("%q: got %#v, want %#v", text, value, want)
		}
	}
}

// TestListening opens what the adapter writes for the wildcards: 0.0.0.0 is
// IPv4 only, which plain tcp and udp would not be, and :: is both.
func TestListening(t *testing.T) {
	for _, tt := range []struct{ address, bound string }{
		{"0.0.0.0", "0.0.0.0"},
		{"::", "::"},
		{"127.0.0.1", "127.0.0.1"},
		{"localhost", "127.0.0.1"},
	} {
		t.Run(tt.address, func(t *testing.T) {
			addr, _ := netip.ParseAddr(tt.address)
			s := service{listen: listenAddress{tt.address, addr, 0}, tcp: true, udp: true}
			for _, text := range s.networks() {
				na, err := caddy.ParseNetworkAddress(text)
				if err != nil {
					t.Fatal(err)
				}
				ln, err := na.Listen(context.Background(), 0, net.ListenConfig{})
				if err != nil {
					if addr.Is6() {
						t.Skipf("no IPv6 here: %v", err)
					}
					t.Fatal(err)
				}
				checkBound(t, ln, tt.bound)
			}
		})
	}
}

func checkBound(t *testing.T, ln any, want string) {
	t.Helper()
	var bound net.Addr
	switch ln := ln.(type) {
	case net.Listener:
		defer ln.Close()
		bound = ln.Addr()
	case net.PacketConn:
		defer ln.Close()
		bound = ln.LocalAddr()
	default:
		t.Fatalf("layer4 does not know what to do with a %T", ln)
	}
	host, port, err := net.SplitHostPort(bound.String())
	if err != nil || host != want {
		t.Errorf("bound to %s, want %s", bound, want)
	}
	if want != "::" || bound.Network() != "tcp" {
		return
	}
	conn, err := net.Dial("tcp4", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		t.Errorf(":: does not take IPv4: %v", err)
		return
	}
	conn.Close()
}

func TestNearest(t *testing.T) {
	known := []string{"name", "protocol", "backends", "backend_cooldown"}
	for key, want := range map[string]string{
		"Protocol": "protocol", "protcol": "protocol", "backend": "backends", "backendcooldown": "backend_cooldown",
		"weight": "", "x": "", "": "", "nme": "name", "tame": "name", "same_as": "", "protokolle": "",
	} {
		if got := nearest(key, known); got != want {
			t.Errorf("%q: got %q, want %q", key, got, want)
		}
	}
}

// TestWarningsCarryTheFile also covers the adapter without a file, as over
// HTTP.
func TestWarningsCarryTheFile(t *testing.T) {
	const body = "x: 1\nservices: [{name: a, listen: {address: '::', port: 1}, backends: ['a:1']}]\n"
	for file, options := range map[string]map[string]any{"config.yaml": {"filename": "config.yaml"}, "": nil} {
		_, warnings, err := Adapter{}.Adapt([]byte(body), options)
		if err != nil || len(warnings) != 1 || warnings[0].File != file || warnings[0].Line != 1 || warnings[0].Directive != "x" {
			t.Errorf("%q: %v, %v", file, warnings, err)
		}
	}
}
