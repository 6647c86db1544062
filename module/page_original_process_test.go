package module_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/caddyfile/asyncrelay"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// editProcess replaces the backend of the only service of another process through its
// page.
func editProcess(t *testing.T, page, backend string) {
	t.Helper()
	config := do(t, page, "GET", "/api/config", "").object(t)["config"].(jsonObject)
	firstService(config)["backends"] = []string{backend}
	body, err := json.Marshal(config)
	relaytest.Check(t, err)
	do(t, page, "PUT", "/api/config", string(body)).want(t, 200)
}

func webKeys(page string) string {
	_, port := splitAddr(page)
	return "web_ui: {enabled: true, port: " + port + "}\n"
}

// Edits survive a restart of the command, until the main file is edited.
func TestAsyncRelayKeepsEdits(t *testing.T) {
	a, _ := echoTCP(t, "a")
	b, _ := echoTCP(t, "b")
	c, _ := echoTCP(t, "c")
	page := freeAddr(t)
	p := startAsyncRelay(t, a, webKeys(page), "--reload-delay", "0.1")
	p.wantAnswer("a x")
	editProcess(t, page, b)
	p.wantAnswer("b x")
	p.waitFor("config edited in the page")
	p.terminate()
	if status := p.status(); status != 0 {
		t.Errorf("status %d", status)
	}

	self, err := os.Executable()
	relaytest.Check(t, err)
	cmd := exec.Command(self, "async-relay", "--reload-delay", "0.1")
	cmd.Dir = filepath.Dir(filepath.Dir(p.file))
	p.process = spawn(t, "caddy", cmd)
	p.waitFor("runtime file active: the settings are the edits made in the page, not those of config/config.yaml")
	p.wantAnswer("b x")
	if source := do(t, page, "GET", "/api/config", "").object(t)["source"]; source != "ui_modified" {
		t.Errorf("source %v", source)
	}
	// The file of the page is the one that the command follows.
	p.write(p.config(c, webKeys(page)))
	p.waitFor("runtime file ignored: config/config.yaml was edited since")
	p.waitFor("config file reloaded")
	p.wantAnswer("c x")
	editProcess(t, page, a)
	p.wantAnswer("a x")
	p.terminate()
	if status := p.status(); status != 0 {
		t.Errorf("status %d", status)
	}
}

// A directory of async-relay, with the runtime file that it has written, is taken over
// with the edits of its page.
func TestAsyncRelayTakesOverRuntimeFile(t *testing.T) {
	a, _ := echoTCP(t, "a")
	b, _ := echoTCP(t, "b")
	at, page := freeAddr(t), freeAddr(t)
	host, port := splitAddr(at)
	file := filepath.Join(t.TempDir(), "relay.yaml")
	text := func(backend string) string {
		return fmt.Sprintf("services:\n- name: main\n  protocol: tcp\n  listen:\n    address: %s\n    port: %s\n  backends:\n  - %s\n%s", host, port, backend, webKeys(page))
	}
	relaytest.Check(t, os.WriteFile(file, []byte(text(a)), 0o644))
	meta := "_meta:\n  base_config_hash: " + asyncrelay.MainHash([]byte(text(a))) + "\n  source: ui_modified\n"
	relaytest.Check(t, os.WriteFile(filepath.Join(filepath.Dir(file), "config.runtime.yaml"), []byte(meta+text(b)), 0o644))

	t.Setenv("CADDY_ADMIN", freeAddr(t))
	self, err := os.Executable()
	relaytest.Check(t, err)
	for _, args := range [][]string{{"async-relay", "-c", file}, {"run", "--config", file, "--adapter", "async-relay"}} {
		p := spawn(t, "caddy", exec.Command(self, args...))
		relaytest.Eventually(t, "the page", func() bool {
			response, err := http.Get("http://" + page + "/api/config/source")
			if err == nil {
				response.Body.Close()
			}
			return err == nil
		})
		http.DefaultClient.CloseIdleConnections()
		relaytest.Eventually(t, "the runtime file in the log", func() bool { return strings.Contains(p.text(), "runtime file active") })
		conn := dial(t, "tcp", at)
		if got := ask(t, conn, "x"); got != "b x" {
			t.Errorf("%v: got %q", args, got)
		}
		conn.Close()
		// The edit of one way to run the file is found by the other one.
		editProcess(t, page, b)
		waitSignals(t, os.Getenv("CADDY_ADMIN"))
		p.terminate()
		if status := p.status(); status != 0 {
			t.Errorf("%v: status %d", args, status)
		}
	}
}

// A page with a password asks for it, and the password is not in the config.
func TestOriginalPassword(t *testing.T) {
	a, _ := echoTCP(t, "a")
	p := startPage(t, ", auth: {enabled: true, username: admin, password: sesame}", a)
	for _, path := range []string{"/", "/api/status", "/api/config"} {
		if got := p.do("GET", path, ""); got.status != 401 || got.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: %d %v", path, got.status, got.header)
		}
	}
	p.do("PUT", "/api/config", "{}").want(t, 401)
	login := []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("admin:sesame"))}
	got := p.do("GET", "/api/config", "", append(login, "Host", "proxy.example")...) // with a password, any name will do
	got.want(t, 200, `"password":"********"`)
	if running := p.running(); strings.Contains(running, "sesame") || !strings.Contains(running, "$2a$14$") {
		t.Errorf("config %s", running)
	}
	config := got.object(t)["config"].(jsonObject)
	p.put(config, login...).want(t, 200)
	if !strings.Contains(p.runtime(), `password: "sesame"`) {
		t.Errorf("the next start would not know the password:\n%s", p.runtime())
	}
	p.do("GET", "/api/status", "", login...).want(t, 200)
	if lines := p.lines("config edited in the page"); len(lines) != 1 || lines[0]["remote"] != "admin" {
		t.Errorf("lines %v", lines)
	}
}
