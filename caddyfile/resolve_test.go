package caddyfile

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/caddyserver/caddy/v2"
)

func TestResolved(t *testing.T) {
	zone := filepath.Join(t.TempDir(), "zone")
	relaytest.Check(t, os.WriteFile(zone, []byte("example.com\n"), 0o600))
	t.Setenv("RELAY_TEST_NAME", "web")
	t.Setenv("RELAY_TEST_PORT", "8080")
	t.Setenv("RELAY_TEST_DNS", "9.9.9.9")
	t.Setenv("RELAY_TEST_EMPTY", "")
	repl := caddy.NewReplacer()
	repl.Set("some.var", "x")

	c := Config{
		Name:        "{env.RELAY_TEST_NAME} proxy",
		Backends:    []string{"db.{file." + zone + "}:{env.RELAY_TEST_PORT}", "b:1"},
		Resolvers:   []string{"{env.RELAY_TEST_DNS}:53"},
		Cooldown:    durationPtr(1),
		HealthCheck: &HealthCheck{Rise: intPtr(1), Send: `\{"name":"{env.RELAY_TEST_NAME}"\}\n`, Expect: "{env.RELAY_TEST_PORT}"},
		EventHook:   &EventHook{Command: "/{env.RELAY_TEST_NAME}", Args: []string{"{file." + zone + "}", `\{x\}`}, Timeout: durationPtr(1)},
	}
	before := c.Backends[0]
	got, err := c.Resolved(repl)
	relaytest.Check(t, err)
	want := Config{
		Name: "web proxy", Backends: []string{"db.example.com:8080", "b:1"}, Resolvers: []string{"9.9.9.9:53"}, Cooldown: durationPtr(1),
		HealthCheck: &HealthCheck{Rise: intPtr(1), Send: `{"name":"web"}\n`, Expect: "8080"},
		EventHook:   &EventHook{Command: "/web", Args: []string{"example.com", "{x}"}, Timeout: durationPtr(1)},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if c.Backends[0] != before || c.HealthCheck.Expect != "{env.RELAY_TEST_PORT}" || c.EventHook.Command != "/{env.RELAY_TEST_NAME}" ||
		c.EventHook.Args[1] != `\{x\}` {
		t.Errorf("Resolved changed its receiver to %+v", c)
	}

	bad := Config{
		Name: "{some.var}",
		Backends: []string{"{env.RELAY_TEST_UNSET}:80", "{env.RELAY_TEST_EMPTY}", "{file.relay-test-missing}", "{l4.conn.remote_addr}",
			"{time.now}", "{env.RELAY_TEST_NAME}:80"},
		Resolvers:   []string{"{env.RELAY_TEST_NO_DNS}"},
		HealthCheck: &HealthCheck{Send: `{"a":1}`, Expect: "{env.RELAY_TEST_UNSET}"},
		EventHook:   &EventHook{Command: "{event.name}", Args: []string{"{env.RELAY_TEST_EMPTY}", "{file.relay-test-missing}"}},
	}
	_, err = bad.Resolved(repl)
	if err == nil {
		t.Fatal("accepted")
	}
	lines := strings.Split(err.Error(), "\n")
	wantLines := []string{
		"name: placeholder {some.var} not allowed here, use {env.*} or {file.*}",
		"backends: environment variable RELAY_TEST_UNSET is not set or empty",
		"backends: environment variable RELAY_TEST_EMPTY is not set or empty",
		"backends: file relay-test-missing cannot be read or is empty",
		"backends: placeholder {l4.conn.remote_addr} not allowed here, use {env.*} or {file.*}",
		"backends: placeholder {time.now} not allowed here, use {env.*} or {file.*}",
		"resolvers: environment variable RELAY_TEST_NO_DNS is not set or empty",
		`health_check.send: placeholder {"a":1} not allowed here, use {env.*} or {file.*}`,
		"health_check.expect: environment variable RELAY_TEST_UNSET is not set or empty",
		"event_hook.command: placeholder {event.name} not allowed here, use {env.*} or {file.*}",
		"event_hook.args: environment variable RELAY_TEST_EMPTY is not set or empty",
		"event_hook.args: file relay-test-missing cannot be read or is empty",
	}
	for i, want := range wantLines {
		wantLines[i] = `service "{some.var}": ` + want
	}
	if !reflect.DeepEqual(lines, wantLines) {
		t.Errorf("got\n%s\nwant\n%s", err, strings.Join(wantLines, "\n"))
	}
}
