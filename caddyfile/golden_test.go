package caddyfile

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cfile "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

var update = flag.Bool("update", false, "write what the golden files should hold")

// separator is between input and outcome in a .caddytest file.
const separator = "\n----------\n"

// TestCaddyfiles reads each input and compares what becomes of it: the JSON of
// the config, with what Validate has to say of it, or the error.
func TestCaddyfiles(t *testing.T) {
	for _, file := range glob(t, "testdata/caddyfile/*.caddytest") {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddytest"), func(t *testing.T) {
			input, want, _ := strings.Cut(string(readTestFile(t, file)), separator)
			got := caddyfileOutcome(t, input)
			if *update {
				writeTestFile(t, file, strings.TrimRight(input, "\n")+separator+got)
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

// TestYAML compares the whole outcome of each file: Caddy's JSON and the
// warnings, or the report.
func TestYAML(t *testing.T) {
	for _, file := range glob(t, "testdata/yaml/*.yaml") {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			got := yamlOutcome(t, readTestFile(t, file))
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			if *update {
				writeTestFile(t, golden, got)
			} else if want := string(readTestFile(t, golden)); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func yamlOutcome(t *testing.T, body []byte) string {
	out, warnings, err := Adapter{}.Adapt(body, map[string]any{"filename": "config.yaml"})
	if err != nil {
		return err.Error() + "\n"
	}
	decodeWhole(t, out)
	var text bytes.Buffer
	if err := json.Indent(&text, out, "", "\t"); err != nil {
		t.Fatal(err)
	}
	text.WriteByte('\n')
	for _, w := range warnings {
		fmt.Fprintf(&text, "warning: %s\n", w)
	}
	return text.String()
}

func indent(t *testing.T, v any) string {
	t.Helper()
	out, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	return string(out) + "\n"
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no files, %v", pattern, err)
	}
	return files
}

func writeTestFile(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
