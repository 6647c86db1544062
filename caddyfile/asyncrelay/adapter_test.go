package asyncrelay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/caddyserver/caddy/v2"
)

// TestYAML compares the result of each file with its golden file: Caddy's JSON
// and the warnings, or the report.
func TestYAML(t *testing.T) {
	for _, file := range relaytest.Glob(t, "testdata/yaml/*.yaml") {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			got := yamlOutcome(t, relaytest.ReadFile(t, file))
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			relaytest.CheckGolden(t, golden, got, *update)
		})
	}
}

func yamlOutcome(t *testing.T, body []byte) string {
	out, warnings, err := newAdapter().Adapt(body, map[string]any{"filename": "config.yaml"})
	if err != nil {
		return err.Error() + "\n"
	}
	decodeWhole(t, out)
	dir, err := os.Getwd()
	relaytest.Check(t, err)
	out = bytes.ReplaceAll(out, []byte(dir), []byte("/DIR"))
	var text bytes.Buffer
	relaytest.Check(t, json.Indent(&text, out, "", "\t"))
	text.WriteByte('\n')
	for _, w := range warnings {
		fmt.Fprintf(&text, "warning: %s\n", w)
	}
	return text.String()
}

// wholeConfig is the part of Caddy's JSON that the adapter writes. Its handlers
// embed Config.
type wholeConfig struct {
	Apps struct {
		HTTP *struct {
			GracePeriod string `json:"grace_period"`
			Servers     map[string]webServerConfig
		}
		Layer4 struct {
			Servers map[string]struct {
				Listen []string
				Routes []struct {
					Handle []struct {
						Handler string
						caddyfile.Config
					}
				}
			}
		}
	}
}

// decodeWhole decodes the output of the adapter. It checks that the output has no
// unknown fields and that its relays are valid.
func decodeWhole(t *testing.T, out []byte) (whole wholeConfig) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(out))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&whole); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	for name, server := range whole.Apps.Layer4.Servers {
		if len(server.Routes) != 1 || len(server.Routes[0].Handle) != 1 {
			t.Fatalf("server %q must have one handler: %s", name, out)
		}
		resolved, err := server.Routes[0].Handle[0].Resolved(caddy.NewReplacer())
		relaytest.Check(t, err)
		if resolved.Name != name {
			t.Errorf("server %q has service %q", name, resolved.Name)
		}
		if err := resolved.Validate(); err != nil {
			t.Error(err)
		}
	}
	return whole
}

func FuzzYAML(f *testing.F) {
	for _, pattern := range []string{"testdata/yaml-corpus/*.yaml", "testdata/yaml/*.yaml"} {
		for _, file := range relaytest.Glob(f, pattern) {
			f.Add(relaytest.ReadFile(f, file))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		given := bytes.Clone(body)
		adapter := newAdapter()
		out, warnings, err := adapter.Adapt(body, nil)
		if !bytes.Equal(body, given) {
			t.Fatal("Adapt changed the body")
		}
		if err != nil {
			if out != nil {
				t.Fatalf("got %s with error %v", out, err)
			}
			for line := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(line, "line ") {
					t.Fatalf("line without a line number: %q", line)
				}
			}
			return
		}
		again, warningsAgain, err := adapter.Adapt(body, nil)
		if err != nil || !bytes.Equal(out, again) || len(warnings) != len(warningsAgain) {
			t.Fatalf("second run: got %s, %v, want %s", again, err, out)
		}
		for _, server := range decodeWhole(t, out).Apps.Layer4.Servers {
			relaytest.CheckRoundTrip(t, server.Routes[0].Handle[0].Config)
			for _, text := range server.Listen {
				if a, err := caddy.ParseNetworkAddress(text); err != nil || a.StartPort == 0 || a.Host == "" {
					t.Fatalf("listens on %s: %v", text, err)
				}
			}
		}
	})
}
