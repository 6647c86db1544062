package caddyfile

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// eitherChoices are the outcomes chosen for the files that could go either
// way. What is refused either never worked in the original or has one spelling
// that every written form of the config shares.
var eitherChoices = map[string]string{
	// Nothing but the documented spelling: the message shows it.
	"backend-brackets-ipv4.yaml":       "reject",
	"backend-brackets-name.yaml":       "reject",
	"backend-ipv4-short.yaml":          "reject",
	"backend-ipv6-bare-with-port.yaml": "reject",
	"backend-numeric-name.yaml":        "reject",
	"backend-port-plus.yaml":           "reject",
	"backend-space-before-port.yaml":   "reject",
	"backend-tab-before-port.yaml":     "reject",
	"backends-item-base-60.yaml":       "reject",

	// Blanks around the whole text are no part of it.
	"backend-trailing-space.yaml": "accept",

	// Never bound in the original: the message shows what to write.
	"address-ipv6-bracketed.yaml": "reject",
	"address-leading-space.yaml":  "reject",

	// Numbers of YAML 1.1 that are whole; not text that looks like one.
	"port-float-whole.yaml": "accept",
	"port-underscore.yaml":  "accept",
	"port-exponent.yaml":    "reject",

	// Seconds, as the original takes them: the message has the number to write.
	"cooldown-suffix-minutes.yaml": "reject",
	"health-interval-suffix.yaml":  "reject",

	// A list of backends and a name mean one thing each.
	"backends-duplicate-item.yaml": "reject",
	"services-duplicate-name.yaml": "reject",

	// Harmless, and warned about.
	"unknown-listen-key.yaml":               "accept",
	"unknown-service-key-case.yaml":         "accept",
	"unknown-top-level.yaml":                "accept",
	"unknown-weight.yaml":                   "accept",
	"hook-command-number.yaml":              "accept",
	"hook-events-empty.yaml":                "accept",
	"web-auth-credentials-not-enabled.yaml": "accept",
	"web-public-without-auth.yaml":          "accept",

	// Died with a traceback in the original.
	"web-auth-null.yaml": "reject",
}

// blamed is what a report on a file of each category must point at, so that a
// file is not refused for the wrong reason.
var blamed = map[string]string{
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
	Choice       bool            `json:"-"` // the verdict was left to us
}

type corpusOutcome struct {
	Accepted bool
	Services []corpusService
	WebUI    struct{ Enabled bool } `json:"web_ui"`
}

type corpusService struct {
	Name     any // a number where the original keeps one
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

// wholeConfig is Caddy's JSON as far as the adapter writes it, with the real
// Config where the handler is.
type wholeConfig struct {
	Apps struct {
		Layer4 struct {
			Servers map[string]struct {
				Listen []string
				Routes []struct {
					Handle []struct {
						Handler string
						Config
					}
				}
			}
		}
	}
}

func TestCorpus(t *testing.T) { testCorpus(t, "testdata/yaml-corpus") }

// TestSharedCorpus runs over the original of the copy in testdata, where there
// is one.
func TestSharedCorpus(t *testing.T) {
	const dir = "../../shared/yaml-corpus"
	if _, err := os.Stat(dir); err != nil {
		t.Skip("only the copy is here")
	}
	testCorpus(t, dir)
}

func testCorpus(t *testing.T, dir string) {
	var expected struct{ Cases map[string]corpusCase }
	if err := json.Unmarshal(readTestFile(t, filepath.Join(dir, "expected.json")), &expected); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if len(files) == 0 || len(files) != len(expected.Cases) {
		t.Fatalf("%d files, %d expectations", len(files), len(expected.Cases))
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
				t.Fatalf("%s: no choice made", name)
			}
		}
		t.Run(name, func(t *testing.T) { c.check(t, readTestFile(t, file)) })
	}
	if either != len(eitherChoices) {
		t.Errorf("%d choices made, %d to make", len(eitherChoices), either)
	}
}

func (c corpusCase) check(t *testing.T, body []byte) {
	out, warnings, err := Adapter{}.Adapt(body, map[string]any{"filename": "config.yaml"})
	if c.Verdict == "reject" {
		if err == nil {
			t.Fatalf("accepted: %s", out)
		}
		for line := range strings.Lines(err.Error()) {
			if !regexp.MustCompile(`^line [1-9]\d*: \S.*`).MatchString(line) {
				t.Errorf("a line without its place: %q", line)
			}
		}
		if want, ok := blamed[c.Category]; ok && !regexp.MustCompile(want).MatchString(err.Error()) {
			t.Errorf("refused for another reason than %q:\n%v", want, err)
		}
		return
	}
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	if again, _, _ := (Adapter{}).Adapt(body, nil); !bytes.Equal(out, again) {
		t.Errorf("two outputs:\n%s\n%s", out, again)
	}

	want := c.Head
	if c.BetterValues != nil {
		// Decoding over what is there replaces just the given values.
		if err := json.Unmarshal(c.BetterValues, &want); err != nil {
			t.Fatal(err)
		}
	}
	checkServices(t, out, want.Services)

	// What was asked for and is not there is what has a warning.
	lacks := map[string]bool{"web_ui": want.WebUI.Enabled, "health_check": false, "event_hook": false}
	for _, s := range want.Services {
		lacks["health_check"] = lacks["health_check"] || s.HealthCheck != nil && s.HealthCheck.Enabled && s.Protocol == "udp"
		lacks["event_hook"] = lacks["event_hook"] || s.EventHook != nil && len(s.EventHook.Events) == 0
	}
	for feature, lacks := range lacks {
		if n := countWarnings(warnings, feature); n != 1 && lacks || n != 0 && !lacks {
			t.Errorf("%d warnings of %s, lacking: %v", n, feature, lacks)
		}
	}
	if n := countWarnings(warnings, "unknown key"); (n != 0) != (c.Category == "unknown" && c.Choice) {
		t.Errorf("%d warnings of unknown keys: %v", n, warnings)
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

// decodeWhole also makes sure that what the adapter writes is all known, and
// that the relays in it are without fault.
func decodeWhole(t *testing.T, out []byte) (whole wholeConfig) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(out))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&whole); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	for name, server := range whole.Apps.Layer4.Servers {
		if len(server.Routes) != 1 || len(server.Routes[0].Handle) != 1 {
			t.Fatalf("not one handler: %s", out)
		}
		resolved, err := server.Routes[0].Handle[0].Resolved(caddy.NewReplacer())
		if err != nil {
			t.Fatal(err)
		}
		if resolved.Name != name {
			t.Errorf("server %q runs service %q", name, resolved.Name)
		}
		if err := resolved.Validate(); err != nil {
			t.Error(err)
		}
	}
	return whole
}

func readTestFile(t testing.TB, file string) []byte {
	t.Helper()
	body, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return body
}
