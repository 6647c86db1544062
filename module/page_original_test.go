package module_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module"
)

// pageFile is a YAML file with a page, and the Caddy that runs it.
type pageFile struct {
	*server
	file string
	at   string // the address of its first service
	page string // the address of the page
}

// jsonObject is an object of async-relay's API.
type jsonObject = map[string]any

// startPage runs a YAML file with a TCP service of these backends. web has more keys
// of web_ui.
func startPage(t *testing.T, web string, backends ...string) *pageFile {
	t.Helper()
	p := &pageFile{server: newServer(t), file: filepath.Join(t.TempDir(), "config.yaml"), at: freeAddr(t), page: freeAddr(t)}
	relaytest.Check(t, module.FinishFile(p.file, p.finish))
	p.write(p.yaml(web, backends...))
	relaytest.Check(t, p.load())
	t.Cleanup(func() { relaytest.Check(t, p.stop()) })
	return p
}

// finish gives the configs of the file the admin API and the log of tests.
func (p *pageFile) finish(config []byte) ([]byte, error) {
	other, err := p.adapt("")
	if err != nil {
		return nil, err
	}
	whole := make(map[string]json.RawMessage)
	if err := json.Unmarshal(other, &whole); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(config, &whole); err != nil { // replaces the apps
		return nil, err
	}
	return json.Marshal(whole)
}

func splitAddr(addr string) (host, port string) {
	host, port, _ = net.SplitHostPort(addr)
	return host, port
}

func (p *pageFile) yaml(web string, backends ...string) string {
	host, port := splitAddr(p.at)
	_, pagePort := splitAddr(p.page)
	return fmt.Sprintf("services:\n  - name: %s\n    protocol: tcp\n    listen: {address: %s, port: %s}\n    backends: [\"%s\"]\n"+
		"    event_hook: {command: /bin/true, args: [s3cret], events: [backend_failed]}\nweb_ui: {enabled: true, port: %s%s}\n",
		unique("page"), host, port, strings.Join(backends, `", "`), pagePort, web)
}

func (p *pageFile) write(text string) {
	p.t.Helper()
	relaytest.Check(p.t, os.WriteFile(p.file, []byte(text), 0o644))
}

// load loads the file as `caddy async-relay` does when it has changed.
func (p *pageFile) load() error {
	content, err := os.ReadFile(p.file)
	if err != nil {
		return err
	}
	return module.LoadFile(p.file, content)
}

// runtime returns the runtime file; "" if there is none.
func (p *pageFile) runtime() string {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(p.file), "config.runtime.yaml"))
	if err != nil && !os.IsNotExist(err) {
		p.t.Fatal(err)
	}
	return string(text)
}

// answer is the answer to a request to the page.
type answer struct {
	status int
	header http.Header
	text   []byte
}

func (a answer) object(t *testing.T) (object jsonObject) {
	t.Helper()
	if err := json.Unmarshal(a.text, &object); err != nil {
		t.Fatalf("status %d: %v in %s", a.status, err, a.text)
	}
	return object
}

// do makes a request to a page. Headers are name and value by turns. Each reload
// replaces the listener of the page and drops the connections in its queue. Such a
// request was not handled, so it is repeated.
func do(t *testing.T, page, method, path, body string, headers ...string) answer {
	t.Helper()
	// Requests with a password hash it, some more than once. With the race detector each
	// hash takes many seconds.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 6 * relaytest.Limit}
	var response *http.Response
	var err error
	for range 20 {
		request, bad := http.NewRequest(method, "http://"+page+path, strings.NewReader(body))
		relaytest.Check(t, bad)
		for pair := range slices.Chunk(headers, 2) {
			request.Header.Set(pair[0], pair[1])
			if pair[0] == "Host" {
				request.Host = pair[1]
			}
		}
		if response, err = client.Do(request); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	relaytest.Check(t, err)
	return answer{response.StatusCode, response.Header, text}
}

func (p *pageFile) do(method, path, body string, headers ...string) answer {
	p.t.Helper()
	return do(p.t, p.page, method, path, body, headers...)
}

// config returns the config that the API shows, and the source.
func (p *pageFile) config() (config jsonObject, source string) {
	p.t.Helper()
	got := p.do("GET", "/api/config", "").object(p.t)
	return got["config"].(jsonObject), got["source"].(string)
}

// put edits the config as async-relay's page does.
func (p *pageFile) put(config jsonObject, headers ...string) answer {
	p.t.Helper()
	body, err := json.Marshal(config)
	relaytest.Check(p.t, err)
	return p.do("PUT", "/api/config", string(body), append(headers, "Content-Type", "application/json")...)
}

func firstService(config jsonObject) jsonObject {
	return config["services"].([]any)[0].(jsonObject)
}

// want checks the status of an answer.
func (a answer) want(t *testing.T, status int, parts ...string) {
	t.Helper()
	if a.status != status {
		t.Errorf("status %d, want %d: %s", a.status, status, a.text)
	}
	for _, part := range parts {
		if !bytes.Contains(a.text, []byte(part)) {
			t.Errorf("no %q in %s", part, a.text)
		}
	}
}

// running returns Caddy's running config.
func (p *pageFile) running() string {
	p.t.Helper()
	response, err := http.Get("http://" + p.admin + "/config/")
	relaytest.Check(p.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	relaytest.Check(p.t, err)
	http.DefaultClient.CloseIdleConnections()
	return string(text)
}

// The requests that async-relay's own page makes, in their order: it loads the config,
// edits every field that it can, tests a backend, saves, loads again, and reloads from
// the file.
func TestOriginalPageRequests(t *testing.T) {
	a, _ := echoTCP(t, "a")
	b, _ := echoTCP(t, "b")
	p := startPage(t, "", a)
	config, source := p.config()
	if source != "config.yaml" {
		t.Errorf("source %q", source)
	}
	service := firstService(config)
	if got := service["backends"]; fmt.Sprint(got) != "["+a+"]" || service["protocol"] != "tcp" {
		t.Errorf("service %v", service)
	}

	p.do("POST", "/api/test-backend", `{"backend":"`+b+`"}`, "Content-Type", "application/json").want(t, 200, `"success":true`, `"latency_ms":`, `"message":"Connected to `+b+`"`)
	gone := freeAddr(t)
	p.do("POST", "/api/test-backend", `{"backend":"`+gone+`"}`).want(t, 200, `"success":false`, "connection refused")

	name, at := unique("renamed"), freeAddr(t)
	host, port := splitAddr(at)
	service["name"], service["protocol"], service["backend_cooldown"] = name, "both", 7
	service["listen"].(jsonObject)["address"] = host
	service["listen"].(jsonObject)["port"] = json.Number(port)
	service["backends"] = []string{b, a}
	saved := p.put(config)
	saved.want(t, 200, `"status":"success"`, `"message":"Configuration updated and reloaded"`)
	if got := ask(t, dial(t, "tcp", at), "x"); got != "b x" {
		t.Errorf("got %q", got)
	}
	after, source := p.config()
	if source != "ui_modified" || fmt.Sprint(firstService(after)["backends"]) != fmt.Sprintf("[%s %s]", b, a) || firstService(after)["backend_cooldown"] != 7.0 {
		t.Errorf("%s: %v", source, after)
	}
	info, err := os.Stat(filepath.Join(filepath.Dir(p.file), "config.runtime.yaml"))
	relaytest.Check(t, err)
	if info.Mode().Perm() != 0o600 && os.PathSeparator == '/' {
		t.Errorf("mode %v", info.Mode())
	}
	for _, want := range []string{"_meta:", "source: ui_modified", "base_config_hash: ", `"s3cret"`} { // the argument that the page saw as ********
		if !strings.Contains(p.runtime(), want) {
			t.Errorf("no %q in\n%s", want, p.runtime())
		}
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(p.file), ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	// As in async-relay, a reload keeps the edits. Only ours can discard them.
	p.do("POST", "/api/config/reload", "").want(t, 200, `"status":"success"`, `"source":"ui_modified"`)
	if after, source = p.config(); source != "ui_modified" || firstService(after)["name"] != name {
		t.Errorf("%s: %v", source, after)
	}
	p.do("POST", "/api/config/reload?discard_edits=true", "").want(t, 200, `"message":"Configuration reloaded from config.yaml"`)
	if after, source = p.config(); source != "config.yaml" || firstService(after)["name"] == name || p.runtime() != "" {
		t.Errorf("%s: %v\n%s", source, after, p.runtime())
	}
	if got := ask(t, dial(t, "tcp", p.at), "x"); got != "a x" {
		t.Errorf("got %q", got)
	}
	p.do("GET", "/api/config/source", "").want(t, 200, `"config_path":"`+p.file+`"`, `config.runtime.yaml"`, `"source":"config.yaml"`)
	for _, message := range []string{"config edited in the page", "config reloaded through the page"} {
		if len(p.lines(message)) == 0 {
			t.Errorf("no line %q in the log", message)
		}
	}
}

// What async-relay's page could not edit: services, checks and hooks.
func TestOriginalEditsServices(t *testing.T) {
	a, _ := echoTCP(t, "a")
	b, _ := echoTCP(t, "b")
	p := startPage(t, "", a, b)
	config, _ := p.config()
	service := firstService(config)
	service["health_check"] = jsonObject{"enabled": true, "interval": 0.5, "timeout": 0.25}
	service["event_hook"] = jsonObject{"command": "/bin/false", "args": []string{"new", caddyfile.Hidden}, "events": []string{"backend_recovered"}}
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

// The shape of the status is the one of async-relay, with more fields.
func TestOriginalStatus(t *testing.T) {
	a, _ := echoTCP(t, "a")
	gone := freeAddr(t)
	p := startPage(t, "", gone, a)
	for range 3 {
		if got := ask(t, dial(t, "tcp", p.at), "hello"); got != "a hello" {
			t.Errorf("got %q", got)
		}
	}
	var status struct {
		Total    int `json:"total_services"`
		DNS      struct{ Entries, TTL *float64 }
		Services []struct {
			Name, Listen string
			Stats        map[string]float64
			Pool         struct {
				Service  string
				Total    int   `json:"total_backends"`
				Check    *bool `json:"health_check_enabled"`
				Backends []struct {
					Position int
					Host     string
					Port     int
					IPs      []string `json:"resolved_ips"`
					Failures *int
					Original int `json:"original_index"`
					State    string
				}
			} `json:"backend_pool"`
		}
	}
	relaytest.Eventually(t, "the bytes to be counted", func() bool { // a relay moves bytes before it counts them
		got := p.do("GET", "/api/status", "")
		got.want(t, 200, `"dns_cache":{"total_entries":`, `"ttl_seconds":3600`)
		status.Services = nil
		relaytest.Check(t, json.Unmarshal(got.text, &status))
		if status.Total != 1 || len(status.Services) != 1 {
			t.Fatalf("%s", got.text)
		}
		stats := status.Services[0].Stats
		return stats["tcp_connections"] == 3 && stats["tcp_bytes_sent"] == 15 && stats["tcp_bytes_received"] == 21
	})
	s := status.Services[0]
	if s.Listen != p.at || s.Pool.Service != s.Name || s.Pool.Total != 2 || s.Pool.Check == nil || *s.Pool.Check {
		t.Errorf("%+v", s)
	}
	want := []string{"tcp_active", "tcp_bytes_received", "tcp_bytes_sent", "tcp_connections", "udp_active", "udp_bytes_received", "udp_bytes_sent", "udp_packets"}
	if keys := slices.Sorted(maps.Keys(s.Stats)); !slices.Equal(keys, want) {
		t.Errorf("counters %v", keys)
	}
	first, last := s.Pool.Backends[0], s.Pool.Backends[1]
	if first.Position != 0 || first.Original != 1 || first.Host != "127.0.0.1" || first.State != "up" || *first.Failures != 0 || len(first.IPs) != 1 {
		t.Errorf("%+v", first)
	}
	if last.Position != 1 || last.Original != 0 || fmt.Sprintf("%s:%d", last.Host, last.Port) != gone || last.State != "cooling" {
		t.Errorf("%+v", last)
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
	for _, line := range p.lines("runtime file ignored: " + p.file + " was edited since, and has precedence; the edits made in the page are not in force") {
		found = found || line["level"] == "warn"
	}
	if !found {
		t.Error("the log does not say that the edits are not in force")
	}

	// A comment changes no settings, so nothing is loaded and the next edit is good.
	p.write("# comment\n" + strings.Replace(string(original), a, c, 1))
	relaytest.Check(t, p.load())
	p.put(config).want(t, 200)
	text, err := os.ReadFile(p.file)
	relaytest.Check(t, err)
	if !strings.Contains(p.runtime(), caddyfile.MainHash(text)) {
		t.Errorf("not made from the file with the comment:\n%s", p.runtime())
	}
	// The next start takes the edit.
	out, _, err := caddyconfig.GetAdapter("async-relay").Adapt(text, map[string]any{"filename": p.file})
	relaytest.Check(t, err)
	if !bytes.Contains(out, []byte(b)) || bytes.Contains(out, []byte(c)) {
		t.Errorf("the next start would load %s", out)
	}
}

// With read_only, and in a config that was not made from a YAML file, nothing can be
// edited, but everything can be read.
func TestOriginalReadOnly(t *testing.T) {
	a, _ := echoTCP(t, "a")
	at, port, name := freeAddr(t), freePort(t), unique("site")
	s := start(t, "")
	site := fmt.Sprintf("http://127.0.0.1:%d {\n handle_path /ro* {\n relay_page read_only\n }\n handle_path /rw* {\n relay_page\n }\n }", port)
	relaytest.Check(t, s.reloadWithSite(block("relay+tcp/"+at, a+" {\n name "+name+"\n }"), site))
	page := fmt.Sprintf("127.0.0.1:%d", port)
	for _, path := range []string{"/ro", "/rw"} {
		got := do(t, page, "GET", path+"/api/config", "")
		got.want(t, 200, `"source":"caddy"`, `"editable":false`, `"reason":"the config was not made from a YAML file`, `"name":"`+name+`"`, `"backends":["`+a+`"]`, `"protocol":"tcp"`, `"address":"127.0.0.1"`)
		do(t, page, "GET", path+"/api/status", "").want(t, 200, `"total_services":1`, `"listen":"`+at+`"`)
		do(t, page, "GET", path+"/api/config/source", "").want(t, 200, `"source":"caddy"`)
		do(t, page, "GET", path+"/relay/health", "").want(t, 200, `"ok":true`)
	}
	before := fmt.Sprint(s.service(name))
	for _, test := range []struct{ method, path, body string }{{"PUT", "/api/config", "{}"}, {"POST", "/api/config/reload", ""}, {"POST", "/api/test-backend", `{"backend":"` + a + `"}`}} {
		do(t, page, test.method, "/ro"+test.path, test.body).want(t, 404, "error")
		if test.path != "/api/test-backend" {
			do(t, page, test.method, "/rw"+test.path, test.body).want(t, 409, "was not made from a YAML file")
		}
	}
	if after := fmt.Sprint(s.service(name)); after != before {
		t.Errorf("%s, before %s", after, before)
	}
	http.DefaultClient.CloseIdleConnections()
}

// The requests of async-relay's API with bad bodies have the answers of async-relay,
// with field and reason.
func TestOriginalTestBackendErrors(t *testing.T) {
	a, _ := echoTCP(t, "a")
	p := startPage(t, "", a)
	for body, parts := range map[string][]string{
		"x":                             {"Invalid JSON in request body"},
		"{}":                            {"Backend address required", `"field":"backend"`},
		`{"backend":5}`:                 {`"field":"backend"`, "must be text"},
		`{"backend":"127.0.0.1"}`:       {`"field":"backend"`, "port is missing"},
		`{"backend":"[::1]:0"}`:         {`"field":"backend"`, "port must be 1 to 65535"},
		`{"backend":"127.0.0.1:65536"}`: {`"field":"backend"`, "port must be 1 to 65535"},
	} {
		p.do("POST", "/api/test-backend", body).want(t, 400, parts...)
	}
	p.do("POST", "/api/test-backend", `{"backend":"`+a+`","service":"nowhere"}`).want(t, 404, `"field":"service"`)
	p.do("POST", "/api/test-backend", `{"backend":"name.invalid:80"}`).want(t, 200, `"success":false`, "DNS error: ")
	p.do("POST", "/api/config/reload?discard_edits=x", "").want(t, 400, `"field":"discard_edits"`)
	p.do("DELETE", "/api/config", "").want(t, 404)
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
