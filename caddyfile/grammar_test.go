package caddyfile

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	cfile "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// TestCaddyfiles parses the input of each golden file and compares the result:
// the JSON of the config and the problems that Validate reports, or the error.
func TestCaddyfiles(t *testing.T) {
	for _, file := range relaytest.Glob(t, "testdata/caddyfile/*.caddytest") {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddytest"), func(t *testing.T) {
			input, want, _ := strings.Cut(string(relaytest.ReadFile(t, file)), separator)
			got := caddyfileOutcome(t, input)
			if *update {
				relaytest.WriteFile(t, file, strings.TrimRight(input, "\n")+separator+got)
			} else if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func caddyfileOutcome(t *testing.T, input string) string {
	c, err := parseCaddyfile(input)
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	out := indent(t, c)
	if err := c.Validate(); err != nil {
		out += "invalid: " + err.Error() + "\n"
	}
	return out
}

func parseCaddyfile(input string) (c Config, err error) {
	tokens, err := cfile.Tokenize([]byte(input), "Caddyfile")
	if err != nil {
		return c, err
	}
	err = c.UnmarshalCaddyfile(cfile.NewDispenser(tokens))
	return c, err
}

func FuzzCaddyfile(f *testing.F) {
	for _, file := range relaytest.Glob(f, "testdata/caddyfile/*.caddytest") {
		input, _, _ := strings.Cut(string(relaytest.ReadFile(f, file)), separator)
		f.Add(input)
	}
	f.Fuzz(func(t *testing.T, input string) {
		c, err := parseCaddyfile(input)
		if err != nil {
			return
		}
		relaytest.CheckRoundTrip(t, c)
		checkWrittenAgain(t, c)
		_ = c.Validate()
		_ = c.Options()
		if field, _, _ := Diff(c, c); field != "" {
			t.Fatalf("%s: a config differs from itself", field)
		}
		if r, err := c.Resolved(caddy.NewReplacer().WithoutFile()); err == nil {
			_ = r.Validate()
		}
	})
}
