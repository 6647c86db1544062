package asyncrelay

import (
	"path/filepath"
	"strings"
	"testing"

	cfile "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// TestConvert compares the Caddyfile of each file with its golden file. Package
// module compares what the Caddyfile and the YAML file become.
func TestConvert(t *testing.T) {
	for _, file := range relaytest.Glob(t, "testdata/convert/*.yaml") {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			got, _, err := newAdapter().Convert(relaytest.ReadFile(t, file), file)
			if err != nil {
				t.Fatal(err)
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".caddyfile"
			relaytest.CheckGolden(t, golden, got, *update)
		})
	}
}

// TestConvertKeepsComments checks that each comment of a file is in the Caddyfile.
func TestConvertKeepsComments(t *testing.T) {
	body := string(relaytest.ReadFile(t, "testdata/convert/comments.yaml"))
	text, _, err := newAdapter().Convert([]byte(body), "")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(body) {
		if _, comment, found := strings.Cut(line, "# "); found && strings.Count(text, strings.TrimSpace(comment)) != 1 {
			t.Errorf("the comment %q is %d times in\n%s", comment, strings.Count(text, strings.TrimSpace(comment)), text)
		}
	}
}

// TestConvertedIsFormatted converts all valid files. The result must be what
// `caddy fmt` makes of it.
func TestConvertedIsFormatted(t *testing.T) {
	converted := 0
	for _, file := range append(append(relaytest.Glob(t, "testdata/yaml-corpus/*.yaml"), relaytest.Glob(t, "testdata/yaml/*.yaml")...), relaytest.Glob(t, "testdata/convert/*.yaml")...) {
		text, _, err := newAdapter().Convert(relaytest.ReadFile(t, file), file)
		if _, _, adaptErr := newAdapter().Adapt(relaytest.ReadFile(t, file), nil); (adaptErr == nil) != (err == nil) {
			t.Errorf("%s: %v", file, err)
		}
		if err != nil {
			continue
		}
		converted++
		if formatted := string(cfile.Format([]byte(text))); formatted != text {
			t.Errorf("%s: caddy fmt changes\n%s\nto\n%s", file, text, formatted)
		}
	}
	if converted < 50 {
		t.Errorf("only %d files were converted", converted)
	}
}

func TestConvertFails(t *testing.T) {
	const file = "services:\n- {name: a, listen: {address: '::', port: 1}, backends: ['a:1'], event_hook: {command: x, args: ['{$HOME}'], events: [backend_failed]}}"
	for body, want := range map[string]string{"services: 1": "must be a list of services", file: "replaces {$NAME}"} {
		if text, _, err := newAdapter().Convert([]byte(body), ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %s", body, err, text)
		}
	}
}
