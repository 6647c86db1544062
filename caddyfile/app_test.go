package caddyfile

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func TestAppOptions(t *testing.T) {
	var c AppConfig
	if err := c.UnmarshalCaddyfile(caddyfile.NewTestDispenser("relay {\n share edge\n node web-1.example\n}")); err != nil {
		t.Fatal(err)
	}
	if c != (AppConfig{Share: "edge", Node: "web-1.example"}) || c.Validate() != nil {
		t.Errorf("got %+v, %v", c, c.Validate())
	}
}

func TestBadAppOptions(t *testing.T) {
	for text, want := range map[string]string{
		"relay now":                             "wrong argument count",
		"relay {\n shared edge\n}":              "unrecognized option 'shared' of the global option relay; did you mean 'share'?",
		"relay {\n share\n}":                    "wrong argument count",
		"relay {\n share a b\n}":                "wrong argument count",
		"relay {\n share a\n share b\n}":        "duplicate option 'share'",
		"relay {\n share a/b\n}":                "share: the name of a fleet",
		"relay {\n share ..\n}":                 "share: the name of a fleet",
		"relay {\n share a\n node ../x\n}":      "node: the name of a node",
		"relay {\n node web\n}":                 "node requires share",
		"relay {\n share " + longName + "\n}":   "share: the name of a fleet",
		"relay {\n share \"\" {\n node x\n}\n}": "",
	} {
		var c AppConfig
		err := c.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text))
		if err == nil {
			err = c.Validate()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
}

var longName = strings.Repeat("x", 65)
