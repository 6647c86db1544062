package caddyfile

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func TestAppOptions(t *testing.T) {
	for text, want := range map[string]AppConfig{
		"relay":                     {},
		"relay {\n}":                {},
		"relay {\n remember\n}":     {Remember: caddy.Duration(time.Hour)},
		"relay {\n remember 90s\n}": {Remember: caddy.Duration(90 * time.Second)},
		"relay {\n instance a.b_c-1\n remember 1d\n}": {Remember: caddy.Duration(24 * time.Hour), Instance: "a.b_c-1"},
		"relay {\n share edge\n instance web-1\n}":    {Share: "edge", Instance: "web-1"},
	} {
		var c AppConfig
		if err := c.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text)); err != nil || c != want {
			t.Errorf("%q: %+v, %v", text, c, err)
		}
		if err := c.Validate(); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestAppOptionErrors(t *testing.T) {
	for text, want := range map[string]string{
		"relay x":                          "wrong argument count",
		"relay {\n x\n}":                   "unrecognized option 'x' of the global option relay",
		"relay {\n remember\n remember\n}": "duplicate option 'remember'",
		"relay {\n remember 1h 2h\n}":      "wrong argument count",
		"relay {\n remember soon\n}":       `remember: must be a duration such as 10m or 1h, got "soon"`,
		"relay {\n remember 0\n}":          "leave the option out",
		"relay {\n remember 31d\n}":        "remember: must be from 1s to 720h, got 744h",
		"relay {\n remember -1h\n}":        "remember: must be from",
		"relay {\n instance\n}":            "wrong argument count",
		"relay {\n instance a b\n}":        "wrong argument count",
		"relay {\n shared edge\n}":         "unrecognized option 'shared' of the global option relay; did you mean 'share'?",
		"relay {\n share\n}":               "wrong argument count",
		"relay {\n share a b\n}":           "wrong argument count",
		"relay {\n share a\n share b\n}":   "duplicate option 'share'",
	} {
		var c AppConfig
		if err := c.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
}

func TestAppValidate(t *testing.T) {
	for text, want := range map[string]string{
		`{"remember":3600}`:                           `write "3600s" for seconds`,
		`{"remember":"10ms"}`:                         "remember: must be from 1s",
		`{"instance":".x"}`:                           "instance: must have at most 64 letters",
		`{"instance":"a/b"}`:                          "instance: must have at most 64 letters",
		`{"share":".."}`:                              "share: must have at most 64 letters",
		`{"share":"a/b"}`:                             "share: must have at most 64 letters",
		`{"share":"` + strings.Repeat("x", 65) + `"}`: "share: must have at most 64 letters",
		`{"remember":"1h"}`:                           "",
	} {
		var c AppConfig
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			t.Fatal(err)
		}
		if err := (&c).Validate(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
	t.Setenv("RELAY_TEST_POD", "pod-1")
	c, err := AppConfig{Instance: "relay-{env.RELAY_TEST_POD}"}.Resolved(caddy.NewReplacer())
	if err != nil || c.Instance != "relay-pod-1" {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := (AppConfig{Instance: "{env.RELAY_TEST_NONE}"}).Resolved(caddy.NewReplacer()); err == nil {
		t.Error("an empty placeholder was accepted")
	}
}
