package module_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module"
	"github.com/async-relay/caddy-relay/module/api"
)

// readiness requests a health endpoint and returns its status and its reasons as
// "service network reason".
func readiness(t *testing.T, url string) (status int, reasons []string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: relaytest.Limit}
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	relaytest.Check(t, err)
	var h api.Health
	if err := json.Unmarshal(text, &h); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if h.OK != (response.StatusCode == http.StatusOK) || h.OK != (len(h.Reasons) == 0) || response.Header.Get("Content-Type") != "application/json" {
		t.Errorf("status %d, %v: %s", response.StatusCode, response.Header, text)
	}
	for _, r := range h.Reasons {
		if r.Message == "" {
			t.Errorf("a reason without words: %s", text)
		}
		reasons = append(reasons, strings.Join(strings.Fields(r.Service+" "+r.Network+" "+r.Reason), " "))
	}
	return response.StatusCode, reasons
}

func (s *server) healthURL(services ...string) string {
	url := "http://" + s.admin + "/relay/health?"
	for _, name := range services {
		url += "service=" + name + "&"
	}
	return url
}

// wantReady checks the health of services.
func (s *server) wantReady(services []string, want ...string) {
	s.t.Helper()
	status, got := readiness(s.t, s.healthURL(services...))
	if !slices.Equal(got, want) || (status == http.StatusOK) != (len(want) == 0) {
		s.t.Errorf("health of %v: status %d, %v, want %v", services, status, got, want)
	}
}

// A service is not ready while none of its backends is up. No backend is contacted
// to find that out.
func TestReadinessFollowsBackends(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	gone, at, other := freeAddr(t), freeAddr(t), freeAddr(t)
	dead, live := unique("dead"), unique("live")
	s := start(t, block("relay+tcp/"+at, gone+" {\n name "+dead+"\n }")+block("relay+tcp/"+other, gone+" "+backend+" {\n name "+live+"\n }"))
	s.wantReady(nil)
	for range 2 {
		conn := dial(t, "tcp", at)
		if _, err := io.ReadAll(conn); err == nil {
			t.Error("the client was served")
		}
	}
	if got := ask(t, dial(t, "tcp", other), "x"); got != "b x" {
		t.Errorf("got %q", got)
	}
	attempts := s.service(dead).Totals.Failures
	s.wantReady(nil, dead+" tcp no_backend")
	s.wantReady([]string{dead, live}, dead+" tcp no_backend")
	s.wantReady([]string{live})
	s.wantReady([]string{live, "nowhere"}, "nowhere unknown_service")
	if got := s.service(dead).Totals.Failures; got != attempts {
		t.Errorf("%d attempts, then %d: the health endpoint has dialled", attempts, got)
	}
	// Nothing but a client can find that the backend is back, so the service is
	// ready again after a while.
	if h := module.HealthAt(time.Now().Add(50 * time.Second)); h.OK {
		t.Error("ready while the failure is fresh")
	}
	if h := module.HealthAt(time.Now().Add(70 * time.Second)); !h.OK {
		t.Errorf("not ready a minute after the failure: %+v", h)
	}
}

// The command has an exit status for scripts and containers.
func TestHealthCommand(t *testing.T) {
	at, name := freeAddr(t), newName("ready")
	backend := newMortal(t)
	s := start(t, block("relay+tcp/"+at, backend.addr+" {\n name "+name+"\n }"))
	if out, problems, status := run(t, nil, "relay", "health", name, "--address", s.admin); out != "ok\n" || status != 0 {
		t.Errorf("status %d, %q, %s", status, out, problems)
	}
	backend.kill()
	turnedAway(t, at)
	turnedAway(t, at)
	out, problems, status := run(t, nil, "relay", "health", name, "--address", s.admin)
	if out != "" || status != 1 || !strings.Contains(problems, "no backend is available: "+backend.addr) {
		t.Errorf("without a backend: status %d, %q, %s", status, out, problems)
	}
}

// What a health check has found stays true until the check finds something else.
func TestReadinessFollowsHealthChecks(t *testing.T) {
	gone, name := freeAddr(t), unique("probed")
	s := start(t, block("relay+tcp/"+freeAddr(t), gone+" {\n name "+name+"\n cooldown 1h\n health_check {\n interval 20ms\n }\n }"))
	relaytest.Eventually(t, "the check to fail", func() bool { return !module.HealthAt(time.Now()).OK })
	s.wantReady(nil, name+" tcp no_backend")
	if h := module.HealthAt(time.Now().Add(3 * time.Hour)); h.OK {
		t.Error("ready although the check fails")
	}
	echoTCPAt(t, "b", gone)
	relaytest.Eventually(t, "the check to pass", func() bool { return module.HealthAt(time.Now()).OK })
}

func TestReadinessOfDrainedService(t *testing.T) {
	a, _ := echoTCP(t, "a")
	b, _ := echoTCP(t, "b")
	at, name := freeAddr(t), unique("drained")
	s := start(t, block("relay+tcp/"+at, a+" "+b+" {\n name "+name+"\n }"))
	s.must("POST", "services/"+name+"/backends/"+a+"/drain", nil)
	s.wantReady(nil)
	s.mustReload(block("relay+tcp/"+at, a+" {\n name "+name+"\n }"))
	s.wantReady(nil, name+" all_drained")
	s.must("POST", "services/"+name+"/backends/"+a+"/resume", nil)
	s.wantReady(nil)
}

// The site answers like the admin API.
func TestReadinessOfSite(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	at, port, name := freeAddr(t), freePort(t), unique("site")
	s := start(t, block("relay+tcp/"+at, backend+" {\n name "+name+"\n }"))
	site := fmt.Sprintf("http://127.0.0.1:%d {\n relay_health /healthz\n relay_health /one %s\n relay_health /none nowhere\n respond other\n }", port, name)
	relaytest.Check(t, s.reloadWithSite(block("relay+tcp/"+at, backend+" {\n name "+name+"\n }"), site))
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	for path, want := range map[string][]string{"/healthz": nil, "/one": nil, "/none": {"nowhere unknown_service"}} {
		if status, got := readiness(t, base+path); !slices.Equal(got, want) || (status == 200) != (want == nil) {
			t.Errorf("%s: %d %v", path, status, got)
		}
	}
	for method, want := range map[string]int{"HEAD": 200, "POST": 405} {
		request, err := http.NewRequest(method, base+"/healthz", nil)
		relaytest.Check(t, err)
		response, err := http.DefaultClient.Do(request)
		relaytest.Check(t, err)
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: %s", method, response.Status)
		}
	}
	// A site can outlive the relays.
	relaytest.Check(t, s.reloadWithSite("", site))
	if status, got := readiness(t, base+"/healthz"); status != 503 || !slices.Equal(got, []string{"not_running"}) {
		t.Errorf("without a relay: %d %v", status, got)
	}
	http.DefaultClient.CloseIdleConnections()
}

// From the signal on, and for as long as relays drain, the process is not ready.
func TestReadinessWhileStopping(t *testing.T) {
	ln := listenTCP(t)
	at := freeAddr(t)
	p := startProcess(t, block("TCP/"+at, ln.Addr().String()+" {\n shutdown_timeout 1m\n }"), 0)
	client := dial(t, "tcp", at)
	backend := accept(t, ln)
	if status, got := readiness(t, p.healthURL()); status != 200 {
		t.Errorf("before: %d %v", status, got)
	}
	p.terminate()
	relaytest.Eventually(t, "the process to stop taking clients", func() bool { return canBind(at) })
	if status, got := readiness(t, p.healthURL()); status != 503 || !slices.Equal(got, []string{"stopping"}) {
		t.Errorf("while a relay drains: %d %v", status, got)
	}
	backend.Close()
	client.Close()
	if status := p.status(); status != 0 {
		t.Errorf("status %d", status)
	}
}

func TestHealthDirectiveErrors(t *testing.T) {
	_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte("http://127.0.0.1:1 {\n relay_health {\n interval 1s\n }\n }"), nil)
	if err == nil || !strings.Contains(err.Error(), `unknown option "interval": relay_health has no block`) {
		t.Errorf("%v", err)
	}
}
