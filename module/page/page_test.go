package page

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module/api"
)

// provision returns a page of these relays. end ends its config.
func provision(t *testing.T, relays Relays, readOnly bool) (p *Handler, end func()) {
	t.Helper()
	handler := New(relays, nil, nil)
	p = &handler
	p.ReadOnly = readOnly
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	if err := p.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	end = func() { cancel(); _ = p.Cleanup() }
	return p, end
}

// respond lets a page respond to a request.
func respond(t *testing.T, p *Handler, r *http.Request) *http.Response {
	t.Helper()
	w := httptest.NewRecorder()
	if err := p.ServeHTTP(w, r, nil); err != nil {
		t.Fatal(err)
	}
	return w.Result()
}

func request(method, path string, headers ...string) *http.Request {
	r := httptest.NewRequest(method, "http://relay.example"+path, nil)
	r.RequestURI = path
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

func TestRoutes(t *testing.T) {
	relaytest.NoLeaks(t)
	relays := &fakeRelays{services: []api.Service{*queue(api.StateUp)}}
	page, end := provision(t, relays, false)
	defer end()
	still, endStill := provision(t, relays, true)
	defer endStill()
	const reset = "/relay/services/orders/reset"
	for _, tt := range []struct {
		method, path string
		status       int
		readOnly     int // status with read_only
		body         string
	}{
		{"GET", "/", 200, 200, "<title>Relay</title>"},
		{"HEAD", "/", 200, 200, ""},
		{"GET", "/app.js", 200, 200, "EventSource"},
		{"GET", "/style.css", 200, 200, "--page"},
		{"GET", "/icon.svg", 200, 200, "<svg"},
		{"GET", "/table", 200, 200, "orders"},
		{"GET", "/table.html", 404, 404, "no GET /table.html"},
		{"GET", "/journal?service=orders", 200, 200, "[]"},
		{"GET", "/journal?service=other", 404, 404, "unknown service"},
		{"HEAD", "/events", 200, 200, ""},
		{"GET", "/nothing", 404, 404, `{"error":"no GET /nothing"}`},
		{"POST", "/", 404, 404, ""},
		{"POST", reset, 200, 404, ""},
		{"GET", reset, 404, 404, ""},
		{"POST", "/relay/services/unknown/reset", 404, 404, ""},
	} {
		for _, p := range []*Handler{page, still} {
			want := tt.status
			if p.ReadOnly {
				want = tt.readOnly
			}
			response := respond(t, p, request(tt.method, tt.path))
			body, _ := io.ReadAll(response.Body)
			if response.StatusCode != want || !strings.Contains(string(body), tt.body) {
				t.Errorf("read-only %t: %s %s: status %d, want %d with %q:\n%s", p.ReadOnly, tt.method, tt.path, response.StatusCode, want, tt.body, body)
			}
			policy := response.Header.Get("Content-Security-Policy")
			if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
				t.Errorf("%s %s: the policy is %q", tt.method, tt.path, policy)
			}
		}
	}
	if got := strings.Join(relays.posts, "; "); got != "192.0.2.1:1234 resets orders; 192.0.2.1:1234 resets unknown" {
		t.Errorf("the endpoint got %q", got)
	}
}

func TestCrossOriginRequestsAreRejected(t *testing.T) {
	relays := &fakeRelays{}
	page, end := provision(t, relays, false)
	defer end()
	const reset = "/relay/services/orders/reset"
	for _, tt := range []struct {
		headers []string
		status  int
	}{
		{nil, 200}, // curl
		{[]string{"Sec-Fetch-Site", "same-origin"}, 200},
		{[]string{"Sec-Fetch-Site", "same-site"}, 403},
		{[]string{"Sec-Fetch-Site", "cross-site"}, 403},
		{[]string{"Sec-Fetch-Site", "cross-site", "Origin", "http://relay.example"}, 403},
		{[]string{"Origin", "http://relay.example"}, 200},
		{[]string{"Origin", "http://relay.example:8080"}, 403},
		{[]string{"Origin", "http://evil.example"}, 403},
		{[]string{"Origin", "null"}, 403},
	} {
		relays.posts = nil
		response := respond(t, page, request("POST", reset, tt.headers...))
		if response.StatusCode != tt.status || (len(relays.posts) > 0) != (tt.status == 200) {
			t.Errorf("%q: status %d, want %d; the endpoint got %q", tt.headers, response.StatusCode, tt.status, relays.posts)
		}
	}
}

func TestRedirectToDirectory(t *testing.T) {
	page, end := provision(t, &fakeRelays{}, false)
	defer end()
	r := request("GET", "/ops/relay")
	r.RequestURI = "/ops/relay"
	r.URL.Path = "" // handle_path has stripped it
	response := respond(t, page, r)
	if got := response.Header.Get("Location"); response.StatusCode != http.StatusPermanentRedirect || got != "./relay/" {
		t.Errorf("status %d to %q", response.StatusCode, got)
	}
	r.RequestURI = "//evil.example"
	if got := respond(t, page, r).Header.Get("Location"); got != "./evil.example/" {
		t.Errorf("a path that names a host leads to %q", got)
	}
}

// TestStreamEndsWithConfig checks that a stream ends when the config of its handler
// ends, and that the hub outlives it in the next config.
func TestStreamEndsWithConfig(t *testing.T) {
	relaytest.NoLeaks(t)
	relays := &fakeRelays{services: []api.Service{*queue(api.StateUp)}}
	old, endOld := provision(t, relays, false)
	next, endNext := provision(t, relays, true)
	defer endNext()
	if old.hub != next.hub {
		t.Error("two configs have two hubs")
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _ = old.ServeHTTP(w, r, nil) }))
	defer server.Close()
	response, err := http.Get(server.URL + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if got := response.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("the stream has the type %q", got)
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	var events []string
	for lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			if events = append(events, name); name == "state" {
				endOld()
			}
		}
	}
	if err := lines.Err(); err != nil || len(events) < 2 || events[0] != "hello" || events[1] != "state" {
		t.Errorf("the stream had %q and ended with %v", events, err)
	}
}

func TestUnmarshalCaddyfile(t *testing.T) {
	for text, want := range map[string]string{
		"relay_page":                     "",
		"relay_page read_only":           "",
		"relay_page readonly":            `unknown argument "readonly"`,
		"relay_page read_only read_only": "duplicate argument",
		"relay_page {\n read_only\n}":    "no block",
	} {
		var p Handler
		err := p.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want %q", text, err, want)
		}
		if want == "" && p.ReadOnly != strings.Contains(text, "read_only") {
			t.Errorf("%s: read_only is %t", text, p.ReadOnly)
		}
	}
}
