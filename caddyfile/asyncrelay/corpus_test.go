package asyncrelay

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// eitherChoices maps the files whose verdict is "either" to the verdict of this
// adapter. The rejected files never worked in async-relay, or have one correct
// spelling that every written form of the config shares.
var eitherChoices = map[string]string{
	// Only the documented spelling is accepted. The error shows it.
	"backend-brackets-ipv4.yaml":       "reject",
	"backend-brackets-name.yaml":       "reject",
	"backend-ipv4-short.yaml":          "reject",
	"backend-ipv6-bare-with-port.yaml": "reject",
	"backend-numeric-name.yaml":        "reject",
	"backend-port-plus.yaml":           "reject",
	"backend-space-before-port.yaml":   "reject",
	"backend-tab-before-port.yaml":     "reject",
	"backends-item-base-60.yaml":       "reject",

	// Blanks around the whole text are ignored.
	"backend-trailing-space.yaml": "accept",

	// async-relay could not bind these. The error shows what to write.
	"address-ipv6-bracketed.yaml": "reject",
	"address-leading-space.yaml":  "reject",

	// Whole numbers of YAML 1.1 are accepted, text that looks like one is not.
	"port-float-whole.yaml": "accept",
	"port-underscore.yaml":  "accept",
	"port-exponent.yaml":    "reject",

	// Only numbers of seconds, as in async-relay. The error shows the number.
	"cooldown-suffix-minutes.yaml": "reject",
	"health-interval-suffix.yaml":  "reject",

	// Backends and names must be unique.
	"backends-duplicate-item.yaml": "reject",
	"services-duplicate-name.yaml": "reject",

	// Harmless. Most of them cause a warning.
	"unknown-listen-key.yaml":               "accept",
	"unknown-service-key-case.yaml":         "accept",
	"unknown-top-level.yaml":                "accept",
	"unknown-weight.yaml":                   "accept",
	"hook-command-number.yaml":              "accept",
	"hook-events-empty.yaml":                "accept",
	"web-auth-credentials-not-enabled.yaml": "accept",

	// Anybody in the network could change the config and run commands.
	"web-public-without-auth.yaml": "reject",

	// async-relay ended with a traceback.
	"web-auth-null.yaml": "reject",
}

// expectedPlaces has the place that the report on a file of each category must
// contain, so that a file is not rejected for the wrong reason.
var expectedPlaces = map[string]string{
	"root":     `^line \d+: `,
	"name":     `: name: `,
	"listen":   `: listen(\.\w+)?: `,
	"address":  `: listen\.address: |not valid YAML`,
	"port":     `: listen\.port: `,
	"protocol": `: protocol: `,
	"backend":  `: backends: `,
	"backends": `: backends: |not valid YAML`,
	"cooldown": `: backend_cooldown: `,
	"health":   `: health_check(\.\w+)?: `,
	"hook":     `: event_hook(\.\w+)?: `,
	"web":      `: web_ui(\.\w+)*: `,
	"yaml":     `^line \d+: `,
}

type corpusCase struct {
	Category     string
	Verdict      string
	Head         corpusOutcome
	BetterValues json.RawMessage `json:"better_values"`
	Choice       bool            `json:"-"` // the verdict in the corpus is "either"
}

type corpusOutcome struct {
	Accepted bool
	Services []corpusService
	WebUI    corpusWeb `json:"web_ui"`
}

type corpusWeb struct {
	Enabled     bool
	Address     string `json:"listen_address"`
	Port        int
	AuthEnabled bool `json:"auth_enabled"`
	Username    any  // a number where async-relay keeps one
	Password    any
}

type corpusService struct {
	Name     any // a number where async-relay keeps one
	Protocol string
	Listen   struct {
		Address any
		Port    int
	}
	Backends []struct {
		Host string
		Port int
	}
	Cooldown    any `json:"backend_cooldown"`
	HealthCheck *struct {
		Enabled           bool
		Interval, Timeout any // seconds
	} `json:"health_check"`
	EventHook *struct {
		Command      string
		Args, Events []any
		Timeout      any
	} `json:"event_hook"`
}

func TestCorpus(t *testing.T) { testCorpus(t, "testdata/yaml-corpus") }

// TestSharedCorpus runs the corpus of which testdata has a copy, if it is
// present.
func TestSharedCorpus(t *testing.T) {
	const dir = "../../../shared/yaml-corpus"
	if _, err := os.Stat(dir); err != nil {
		t.Skip("no shared corpus")
	}
	testCorpus(t, dir)
}

func testCorpus(t *testing.T, dir string) {
	var expected struct{ Cases map[string]corpusCase }
	relaytest.Check(t, json.Unmarshal(relaytest.ReadFile(t, filepath.Join(dir, "expected.json")), &expected))
	files, _ := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if len(files) == 0 || len(files) != len(expected.Cases) {
		t.Fatalf("%d files, but %d cases in expected.json", len(files), len(expected.Cases))
	}
	either := 0
	for _, file := range files {
		name := filepath.Base(file)
		c, ok := expected.Cases[name]
		if !ok {
			t.Fatalf("%s: not in expected.json", name)
		}
		if c.Verdict == "either" {
			either++
			c.Choice = true
			if c.Verdict = eitherChoices[name]; c.Verdict == "" {
				t.Fatalf("%s: missing in eitherChoices", name)
			}
		}
		t.Run(name, func(t *testing.T) { c.check(t, relaytest.ReadFile(t, file)) })
	}
	if either != len(eitherChoices) {
		t.Errorf("eitherChoices has %d files, want %d", len(eitherChoices), either)
	}
}

func (c corpusCase) check(t *testing.T, body []byte) {
	adapter := newAdapter()
	out, warnings, err := adapter.Adapt(body, map[string]any{"filename": "config.yaml"})
	if c.Verdict == "reject" {
		if err == nil {
			t.Fatalf("accepted: %s", out)
		}
		for line := range strings.Lines(err.Error()) {
			if !regexp.MustCompile(`^line [1-9]\d*: \S.*`).MatchString(line) {
				t.Errorf("line without a line number: %q", line)
			}
		}
		if want, ok := expectedPlaces[c.Category]; ok && !regexp.MustCompile(want).MatchString(err.Error()) {
			t.Errorf("the report does not match %q:\n%v", want, err)
		}
		return
	}
	if err != nil {
		t.Fatalf("rejected: %v", err)
	}
	if again, _, _ := adapter.Adapt(body, map[string]any{"filename": "config.yaml"}); !bytes.Equal(out, again) {
		t.Errorf("two runs gave different output:\n%s\n%s", out, again)
	}

	want := c.Head
	if c.BetterValues != nil {
		// Decoding into want replaces only the values that are given.
		relaytest.Check(t, json.Unmarshal(c.BetterValues, &want))
	}
	checkServices(t, out, want.Services)
	checkWeb(t, out, want.WebUI)

	// Each feature that the file uses and the adapter ignores has one warning.
	ignored := map[string]bool{
		"web_ui": false, "web_ui.auth": want.WebUI.Enabled && !want.WebUI.AuthEnabled && want.WebUI.Password != nil,
		"health_check": false, "event_hook": false,
	}
	for _, s := range want.Services {
		ignored["health_check"] = ignored["health_check"] || s.HealthCheck != nil && s.HealthCheck.Enabled && s.Protocol == "udp"
		ignored["event_hook"] = ignored["event_hook"] || s.EventHook != nil && len(s.EventHook.Events) == 0
	}
	for feature, ignored := range ignored {
		if n := countWarnings(warnings, feature); n != 1 && ignored || n != 0 && !ignored {
			t.Errorf("%d warnings about %s, ignored: %v", n, feature, ignored)
		}
	}
	if n := countWarnings(warnings, "unknown key"); (n != 0) != (c.Category == "unknown" && c.Choice) {
		t.Errorf("%d warnings about unknown keys: %v", n, warnings)
	}
}

func countWarnings(warnings []caddyconfig.Warning, about string) (n int) {
	for _, w := range warnings {
		if w.Directive == about || strings.Contains(w.Message, about) {
			n++
		}
	}
	return n
}
