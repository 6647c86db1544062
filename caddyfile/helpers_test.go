package caddyfile

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/caddyserver/caddy/v2"
)

var update = flag.Bool("update", false, "write the current results to the golden files")

// separator is the line between input and expected result in a .caddytest file.
const separator = "\n----------\n"

func durationPtr(d time.Duration) *caddy.Duration { return (*caddy.Duration)(&d) }

func intPtr(n int) *int { return &n }

// checkRoundTrip checks that a config survives encoding as JSON. Caddy keeps only
// the JSON of a Caddyfile.
func checkRoundTrip(t *testing.T, c Config) {
	t.Helper()
	out, err := json.Marshal(c)
	relaytest.Check(t, err)
	var back Config
	decoder := json.NewDecoder(bytes.NewReader(out))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&back); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if again, _ := json.Marshal(back); !bytes.Equal(out, again) {
		t.Fatalf("got %s after a round trip, want %s", again, out)
	}
}

func indent(t *testing.T, v any) string {
	t.Helper()
	out, err := json.MarshalIndent(v, "", "\t")
	relaytest.Check(t, err)
	return string(out) + "\n"
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files match %s: %v", pattern, err)
	}
	return files
}

func readTestFile(t testing.TB, file string) []byte {
	t.Helper()
	body, err := os.ReadFile(file)
	relaytest.Check(t, err)
	return body
}

func writeTestFile(t *testing.T, file, text string) {
	t.Helper()
	relaytest.Check(t, os.WriteFile(file, []byte(text), 0o644))
}
