package module_test

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// startConverted runs the Caddyfile that a YAML file with a page is converted to. web
// has more keys of web_ui.
func startConverted(t *testing.T, web string) *pageFile {
	t.Helper()
	p := &pageFile{server: newServer(t), file: filepath.Join(t.TempDir(), "config.yaml"), at: freeAddr(t), page: freeAddr(t)}
	p.write(p.yaml(web, "a.example:80"))
	text, problems, status := run(t, nil, "relay", "convert", p.file)
	if status != 0 || !strings.Contains(problems, "the page of a Caddyfile cannot edit the settings") {
		t.Fatalf("status %d: %s", status, problems)
	}
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err == nil {
		config, err = p.finish(config)
	}
	relaytest.Check(t, err)
	relaytest.Check(t, caddy.Load(config, true))
	t.Cleanup(func() { relaytest.Check(t, p.stop()) })
	return p
}

// A converted page without a login is served under names of this machine only.
func TestConvertedPage(t *testing.T) {
	p := startConverted(t, "")
	p.do("GET", "/api/status", "").want(t, http.StatusOK, `"services"`)
	if got := p.do("GET", "/api/status", "", "Host", "attacker.example"); strings.Contains(string(got.text), "services") {
		t.Errorf("another name is answered: %s", got.text)
	}
}

// A converted page keeps its login.
func TestConvertedPageWithLogin(t *testing.T) {
	p := startConverted(t, `, auth: {enabled: true, username: "the {desk}", password: "a {b}"}`)
	p.do("GET", "/api/status", "").want(t, http.StatusUnauthorized)
	request, err := http.NewRequest("GET", "http://"+p.page+"/api/status", nil)
	relaytest.Check(t, err)
	request.SetBasicAuth("the {desk}", "a {b}")
	p.do("GET", "/api/status", "", "Authorization", request.Header.Get("Authorization")).want(t, http.StatusOK, `"services"`)
}
