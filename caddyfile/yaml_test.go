package caddyfile

import (
	"fmt"
	"math"
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

// TestListening has the addresses as they are written, because what they bind
// depends on each part: the relay's networks take IPv4 alone on 0.0.0.0 and
// both families on ::, and survive reloads, which tcp and udp do not.
func TestListening(t *testing.T) {
	for _, tt := range []struct{ address, protocol, want string }{
		{"0.0.0.0", "tcp", "relay+tcp/0.0.0.0:53"},
		{"0.0.0.0", "udp", "relay+udp/0.0.0.0:53"},
		{"0.0.0.0", "both", "relay+tcp/0.0.0.0:53 relay+udp/0.0.0.0:53"},
		{"::", "tcp", "relay+tcp/[::]:53"},
		{"::", "udp", "relay+udp/[::]:53"},
		{"::", "both", "relay+tcp/[::]:53 relay+udp/[::]:53"},
		{"0:0::0", "tcp", "relay+tcp/[::]:53"},
		{"::ffff:0.0.0.0", "both", "relay+tcp/0.0.0.0:53 relay+udp/0.0.0.0:53"},
		{"127.0.0.1", "both", "relay+tcp/127.0.0.1:53 relay+udp/127.0.0.1:53"},
		{"::ffff:127.0.0.1", "tcp", "relay+tcp/127.0.0.1:53"},
		{"::1", "both", "relay+tcp/[::1]:53 relay+udp/[::1]:53"},
		{"fe80::1%eth0", "both", "relay+tcp/[fe80::1%eth0]:53 relay+udp/[fe80::1%eth0]:53"},
		{"LocalHost", "both", "relay+tcp/localhost:53 relay+udp/localhost:53"},
		{"bücher.example", "udp", "relay+udp/xn--bcher-kva.example:53"},
	} {
		body := fmt.Sprintf("services: [{name: a, protocol: %s, listen: {address: %q, port: 53}, backends: ['a:1']}]\n", tt.protocol, tt.address)
		out, _, err := Adapter{}.Adapt([]byte(body), nil)
		if err != nil {
			t.Errorf("%s on %s: %v", tt.protocol, tt.address, err)
			continue
		}
		listen := decodeWhole(t, out).Apps.Layer4.Servers["a"].Listen
		if got := strings.Join(listen, " "); got != tt.want {
			t.Errorf("%s on %s: got %s, want %s", tt.protocol, tt.address, got, tt.want)
		}
		for _, text := range listen {
			// Caddy must read it as it is meant, a zone and brackets included.
			if a, err := caddy.ParseNetworkAddress(text); err != nil || a.String() != text {
				t.Errorf("%s: Caddy reads %s, %v", text, a, err)
			}
		}
	}
}

// TestHookTextIsLiteral covers what would be a placeholder in a config of
// Caddy's.
func TestHookTextIsLiteral(t *testing.T) {
	const body = `services: [{name: a, listen: {address: '::', port: 1}, backends: ['a:1'],
		event_hook: {command: '{env.HOME}', args: ['{"a": {}}', '\{', '}\'], events: [backend_failed]}}]`
	out, _, err := Adapter{}.Adapt([]byte(body), nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := decodeWhole(t, out).Apps.Layer4.Servers["a"].Routes[0].Handle[0].Resolved(caddy.NewReplacer())
	if err != nil {
		t.Fatal(err)
	}
	if hook := c.EventHook; hook.Command != "{env.HOME}" || strings.Join(hook.Args, " ") != `{"a": {}} \{ }\` {
		t.Errorf("%s with %q", hook.Command, hook.Args)
	}
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
