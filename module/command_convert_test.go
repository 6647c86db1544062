package module_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/caddyfile/asyncrelay"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// relaysOf returns the settings of each layer4 server of a config by its addresses.
// The names of servers and the notation of durations differ between the formats.
func relaysOf(t *testing.T, adapter string, body []byte) map[string]caddyfile.Config {
	t.Helper()
	out, _, err := caddyconfig.GetAdapter(adapter).Adapt(body, map[string]any{"filename": "config"})
	if err != nil {
		t.Fatalf("%v in\n%s", err, body)
	}
	var whole struct {
		Apps struct {
			Layer4 struct {
				Servers map[string]struct {
					Listen []string
					Routes []struct{ Handle []caddyfile.Config }
				}
			}
		}
	}
	relaytest.Check(t, json.Unmarshal(out, &whole))
	relays := make(map[string]caddyfile.Config)
	for name, server := range whole.Apps.Layer4.Servers {
		if len(server.Routes) != 1 || len(server.Routes[0].Handle) != 1 {
			t.Fatalf("server %s: %s", name, out)
		}
		relays[fmt.Sprint(server.Listen)] = server.Routes[0].Handle[0]
	}
	return relays
}

// TestConvertedHasTheSameSettings converts every valid YAML file, and compares what
// the Caddyfile and the YAML file become.
func TestConvertedHasTheSameSettings(t *testing.T) {
	converted := 0
	adapter := new(asyncrelay.Adapter) // hashes each password once
	for _, pattern := range []string{"yaml-corpus", "yaml", "convert"} {
		files, _ := filepath.Glob("../caddyfile/asyncrelay/testdata/" + pattern + "/*.yaml")
		if len(files) == 0 {
			t.Fatalf("no files in %s", pattern)
		}
		for _, file := range files {
			body, err := os.ReadFile(file)
			relaytest.Check(t, err)
			text, _, err := adapter.Convert(body, file)
			if err != nil {
				continue // not a valid file
			}
			converted++
			want, got := relaysOf(t, "async-relay", body), relaysOf(t, "caddyfile", []byte(text))
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s: the Caddyfile\n%s\nhas %+v\nwant %+v", file, text, got, want)
			}
		}
	}
	if converted < 60 {
		t.Errorf("only %d files were converted", converted)
	}
}

func TestConvertCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	write := func(text string) {
		t.Helper()
		relaytest.Check(t, os.WriteFile(file, []byte(text), 0o600))
	}
	const service = "services:\n# the web\n- name: web\n  listen: {address: 127.0.0.1, port: 80}\n  backends: ['a:80']\n"
	write(service + "  colour: blue\n")
	out, problems, status := run(t, nil, "relay", "convert", file)
	if status != 0 || !strings.Contains(out, "# the web\n\t\trelay+tcp/127.0.0.1:80 relay+udp/127.0.0.1:80 {") || !strings.Contains(problems, "warning: "+file+":6 (colour)") {
		t.Errorf("status %d, %s%s", status, out, problems)
	}
	out, problems, status = run(t, nil, "relay", "convert", file, "--to", "json")
	if status != 0 || !json.Valid([]byte(out)) || !strings.Contains(out, "\n\t\"apps\"") {
		t.Errorf("status %d, %s%s", status, out, problems)
	}
	write("services:\n- name: web\n  lissten: {}\n  backends: ['a']\n")
	out, problems, status = run(t, nil, "relay", "convert", file)
	for _, want := range []string{"listen: is missing", `did you mean "listen"?`, "port is missing"} {
		if status != 1 || out != "" || !strings.Contains(problems, want) {
			t.Errorf("status %d, %s%s, want %s", status, out, problems, want)
		}
	}
	write(service + "  event_hook: {command: echo, args: ['{$HOME}'], events: [backend_failed]}\n")
	_, problems, status = run(t, nil, "relay", "convert", file)
	if status != 1 || !strings.Contains(problems, "--to json works") {
		t.Errorf("status %d, %s", status, problems)
	}
	for args, want := range map[string]string{file + " --to toml": "must be caddyfile or json", file + ".missing": "read the configuration file"} {
		if _, problems, status = run(t, nil, append([]string{"relay", "convert"}, strings.Fields(args)...)...); status != 1 || !strings.Contains(problems, want) {
			t.Errorf("%s: status %d, %s", args, status, problems)
		}
	}
}

// The command prints the published schema.
func TestSchemaCommand(t *testing.T) {
	out, problems, status := run(t, nil, "relay", "schema")
	want, err := os.ReadFile("../docs/async-relay.schema.json")
	relaytest.Check(t, err)
	if status != 0 || out != string(want) {
		t.Errorf("status %d, %s: %d bytes, the file has %d", status, problems, len(out), len(want))
	}
}
