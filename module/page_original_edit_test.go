package module_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/async-relay/caddy-relay/caddyfile/asyncrelay"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// What async-relay's page could not edit: services, checks and hooks.
func TestOriginalEditsServices(t *testing.T) {
	a, _ := echoTCP(t, "a")
	b, _ := echoTCP(t, "b")
	p := startPage(t, "", a, b)
	config, _ := p.config()
	service := firstService(config)
	service["health_check"] = jsonObject{"enabled": true, "interval": 0.5, "timeout": 0.25}
	service["event_hook"] = jsonObject{"command": "/bin/false", "args": []string{"new", asyncrelay.Hidden}, "events": []string{"backend_recovered"}}
	p.put(config).want(t, 400, `"field":"event_hook.args"`, `"line":1`) // it had one argument
	service["event_hook"].(jsonObject)["args"] = []string{"new"}
	at, added := freeAddr(t), unique("added")
	host, port := splitAddr(at)
	config["services"] = append(config["services"].([]any), jsonObject{
		"name": added, "protocol": "tcp", "listen": jsonObject{"address": host, "port": json.Number(port)}, "backends": []string{b},
	})
	p.put(config).want(t, 200)
	if got := ask(t, dial(t, "tcp", at), "x"); got != "b x" {
		t.Errorf("got %q", got)
	}
	if v := p.service(service["name"].(string)); !strings.Contains(p.running(), `"interval":"500ms"`) || len(v.Backends) != 2 {
		t.Errorf("%+v\n%s", v, p.running())
	}
	config, _ = p.config()
	config["services"] = config["services"].([]any)[1:]
	p.put(config).want(t, 200)
	refused(t, p.at)
	if got := ask(t, dial(t, "tcp", at), "x"); got != "b x" {
		t.Errorf("got %q", got)
	}
}

// Edits that are refused change nothing: neither the running config, nor the files.
func TestOriginalRefusesEdits(t *testing.T) {
	a, _ := echoTCP(t, "a")
	p := startPage(t, "", a)
	config, _ := p.config()
	edit := func(change func(service jsonObject)) string {
		config, _ := p.config()
		change(firstService(config))
		body, err := json.MarshalIndent(config, "", " ")
		relaytest.Check(t, err)
		return string(body)
	}
	taken := listenTCP(t)
	_, takenPort := splitAddr(taken.Addr().String())
	before, etag := p.running(), p.do("GET", "/api/config", "").header.Get("ETag")
	for name, test := range map[string]struct {
		body    string
		headers []string
		status  int
		parts   []string
	}{
		"no JSON":     {"services", nil, 400, []string{`"error":"line 1: not valid JSON`}},
		"no services": {`{"web_ui":{"enabled":false}}`, nil, 400, []string{`"field":"services"`, `"reason":"is missing`}},
		"a port": {edit(func(s jsonObject) { s["listen"].(jsonObject)["port"] = 0 }), nil, 400,
			[]string{`"field":"listen.port"`, `"line":18`, `"reason":"must be 1 to 65535, got 0"`}},
		"two problems": {edit(func(s jsonObject) { s["backends"] = []string{"x"}; s["protocol"] = "sctp" }), nil, 400,
			[]string{`"field":"backends"`, `"field":"protocol"`}},
		"a public page": {`{"services":[{"name":"x","listen":{"address":"127.0.0.1","port":1},"backends":["x:80"]}],"web_ui":{"enabled":true,"listen_address":"::"}}`, nil, 400,
			[]string{`"field":"web_ui.listen_address"`}},
		"a taken port":   {edit(func(s jsonObject) { s["listen"].(jsonObject)["port"] = json.Number(takenPort) }), nil, 409, []string{"address already in use"}},
		"a known loop":   {edit(func(s jsonObject) { s["backends"] = []string{p.at} }), nil, 409, nil},
		"an old version": {edit(func(s jsonObject) { s["backend_cooldown"] = 1 }), []string{"If-Match", `"other"`}, 412, []string{"have changed"}},
		"too large":      {strings.Repeat(" ", 2<<20), nil, 413, nil},
		"another origin": {edit(func(s jsonObject) { s["backend_cooldown"] = 1 }), []string{"Origin", "http://attacker.example"}, 403, nil},
		"another site":   {edit(func(s jsonObject) { s["backend_cooldown"] = 1 }), []string{"Sec-Fetch-Site", "cross-site"}, 403, nil},
		"a rebound name": {edit(func(s jsonObject) { s["backend_cooldown"] = 1 }), []string{"Host", "attacker.example"}, 403, []string{"web_ui.auth"}},
	} {
		got := p.do("PUT", "/api/config", test.body, test.headers...)
		if got.status != test.status || got.object(t)["error"] == "" {
			t.Errorf("%s: status %d: %s", name, got.status, got.text)
		}
		for _, part := range test.parts {
			if !bytes.Contains(got.text, []byte(part)) {
				t.Errorf("%s: no %s in %s", name, part, got.text)
			}
		}
		if after := p.running(); after != before || p.runtime() != "" {
			t.Fatalf("%s: the config is\n%s\nbefore\n%s\nruntime file:\n%s", name, after, before, p.runtime())
		}
	}
	if got := ask(t, dial(t, "tcp", p.at), "x"); got != "a x" {
		t.Errorf("got %q", got)
	}
	for path, body := range map[string]string{"/api/config/reload": "", "/api/test-backend": `{"backend":"` + a + `"}`} {
		p.do("POST", path, body, "Sec-Fetch-Site", "same-site").want(t, 403)
	}
	p.put(config, "If-Match", etag, "Sec-Fetch-Site", "same-origin").want(t, 200)
}

// An edit that cannot be saved is taken back.
func TestOriginalUndoesUnsavedEdit(t *testing.T) {
	a, _ := echoTCP(t, "a")
	b, _ := echoTCP(t, "b")
	p := startPage(t, "", a)
	config, _ := p.config()
	firstService(config)["backends"] = []string{b}
	runtime := filepath.Join(filepath.Dir(p.file), "config.runtime.yaml")
	relaytest.Check(t, os.MkdirAll(filepath.Join(runtime, "x"), 0o700)) // nothing can replace it
	p.put(config).want(t, 409, "cannot save the edit")
	if got := ask(t, dial(t, "tcp", p.at), "x"); got != "a x" {
		t.Errorf("got %q", got)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(p.file), ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	relaytest.Check(t, os.RemoveAll(runtime))
	p.put(config).want(t, 200)
	if got := ask(t, dial(t, "tcp", p.at), "x"); got != "b x" {
		t.Errorf("got %q", got)
	}
}

// The main file has precedence over edits as soon as its settings change.
func TestOriginalMainFileWins(t *testing.T) {
	a, _ := echoTCP(t, "a")
	b, _ := echoTCP(t, "b")
	c, _ := echoTCP(t, "c")
	p := startPage(t, "", a)
	original, err := os.ReadFile(p.file)
	relaytest.Check(t, err)
	config, _ := p.config()
	firstService(config)["backends"] = []string{b}
	p.put(config).want(t, 200)

	p.write(strings.Replace(string(original), a, c, 1))
	p.put(config).want(t, 409, "was edited and is not loaded yet")
	if got := ask(t, dial(t, "tcp", p.at), "x"); got != "b x" {
		t.Errorf("got %q", got)
	}
	relaytest.Check(t, p.load())
	if got := ask(t, dial(t, "tcp", p.at), "x"); got != "c x" {
		t.Errorf("got %q", got)
	}
	if _, source := p.config(); source != "config.yaml" {
		t.Errorf("source %s", source)
	}
	found := false
	for _, line := range p.lines("runtime file ignored: " + p.file + " was edited since, and has precedence; the edits made in the page are not active") {
		found = found || line["level"] == "warn"
	}
	if !found {
		t.Error("the log does not say that the edits are not active")
	}

	// A comment changes no settings, so nothing is loaded and the next edit is good.
	p.write("# comment\n" + strings.Replace(string(original), a, c, 1))
	relaytest.Check(t, p.load())
	p.put(config).want(t, 200)
	text, err := os.ReadFile(p.file)
	relaytest.Check(t, err)
	if !strings.Contains(p.runtime(), asyncrelay.MainHash(text)) {
		t.Errorf("not made from the file with the comment:\n%s", p.runtime())
	}
	// The next start takes the edit.
	out, _, err := caddyconfig.GetAdapter("async-relay").Adapt(text, map[string]any{"filename": p.file})
	relaytest.Check(t, err)
	if !bytes.Contains(out, []byte(b)) || bytes.Contains(out, []byte(c)) {
		t.Errorf("the next start would load %s", out)
	}
}

// A reload of a file with problems changes nothing and names them.
func TestOriginalReloadOfBadFile(t *testing.T) {
	a, _ := echoTCP(t, "a")
	p := startPage(t, "", a)
	before := p.running()
	p.write("services: []")
	p.do("POST", "/api/config/reload", "").want(t, 409, `"field":"services"`, `"line":1`, p.file)
	if p.running() != before {
		t.Error("the config has changed")
	}
	p.do("GET", "/api/config", "").want(t, 200, `"editable":true`, a) // what runs
	relaytest.Check(t, os.Remove(p.file))
	p.do("POST", "/api/config/reload", "").want(t, 409, "read the configuration file")
	config, _ := p.config()
	p.put(config).want(t, 409, "the edit depends on the main file")
}

// A config that was not made from what the file contains cannot be edited.
func TestOriginalOfOtherContent(t *testing.T) {
	a, _ := echoTCP(t, "a")
	b, _ := echoTCP(t, "b")
	p := startPage(t, "", a)
	text, err := os.ReadFile(p.file)
	relaytest.Check(t, err)
	adapted, _, err := caddyconfig.GetAdapter("async-relay").Adapt(text, map[string]any{"filename": p.file})
	relaytest.Check(t, err)
	adapted, err = p.finish(adapted)
	relaytest.Check(t, err)
	p.write(strings.Replace(string(text), a, b, 1))
	relaytest.Check(t, caddy.Load(adapted, true)) // as with the config that Caddy saved
	p.do("GET", "/api/config", "").want(t, 200, `"editable":false`, `"reason":"the file was edited and is not loaded yet"`, b)
	config, _ := p.config()
	p.put(config).want(t, 409, "reload it first")
	p.do("POST", "/api/config/reload", "").want(t, 200)
	if got := ask(t, dial(t, "tcp", p.at), "x"); got != "b x" {
		t.Errorf("got %q", got)
	}
	p.put(config).want(t, 200)
}
