package module_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

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
