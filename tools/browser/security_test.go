package browser

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/tools/browser/lab"
)

// TestForgedRequestsChangeNothing lets pages of other origins send the requests of
// the buttons: another site, and another port of the same host.
func TestForgedRequestsChangeNothing(t *testing.T) {
	_, addrs := newBackends(t, 2)
	s := serve(t, service(lab.FreeAddr(), "orders", addrs), "")
	drain := fmt.Sprintf("http://%s/relay/services/orders/backends/%s/drain", s.addr, addrs[0])
	forger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<form method="post" action="%s"></form>`, drain)
	}))
	defer forger.Close()
	for _, origin := range []string{forger.URL, strings.Replace(forger.URL, "127.0.0.1", "localhost", 1)} {
		for name, attack := range map[string]string{
			"fetch": fmt.Sprintf("fetch(%q, {method: 'POST', mode: 'no-cors'}).then(() => 'sent', (e) => 'sent: ' + e)", drain),
			"form":  "new Promise((done) => { const f = document.forms[0]; f.target = 'frame'; const i = document.createElement('iframe'); i.name = 'frame'; i.onload = () => i.contentWindow && done('sent'); document.body.append(i); f.submit(); setTimeout(() => done('sent'), 1000) })",
		} {
			page, err := lab.Open(browser, origin, desk)
			if err != nil {
				t.Fatal(err)
			}
			if sent, err := lab.Eval[string](page, attack); err != nil || !strings.HasPrefix(sent, "sent") {
				t.Errorf("%s from %s: %q, %v", name, origin, sent, err)
			}
			page.Close()
			if got := s.state("orders").Backends[0].State; got != "up" {
				t.Errorf("a %s from %s made the backend %s", name, origin, got)
			}
		}
	}
	// A browser without Sec-Fetch-Site sends Origin.
	for origin, status := range map[string]int{"http://evil.example": http.StatusForbidden, "http://" + s.addr: http.StatusOK, "": http.StatusOK} {
		request, _ := http.NewRequest(http.MethodPost, drain, nil)
		if origin != "" {
			request.Header.Set("Origin", origin)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != status {
			t.Errorf("a request with Origin %q: status %d, want %d", origin, response.StatusCode, status)
		}
	}
}

// TestPolicyForbidsForeignScripts checks that the policy works, and so that the
// check of all other tests for violations can fail.
func TestPolicyForbidsForeignScripts(t *testing.T) {
	_, addrs := newBackends(t, 1)
	s := serve(t, service(lab.FreeAddr(), "orders", addrs), "")
	page := s.open(desk, "/")
	page.expect = []string{"Content Security Policy"}
	eval[bool](page, "(() => { const s = document.createElement('script'); s.textContent = 'window.foreign = 1'; document.body.append(s); document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">x</p>'); return true })()")
	if eval[bool](page, "'foreign' in window") {
		t.Error("an inline script ran")
	}
	eval[string](page, "fetch('http://localhost:1/').then(() => 'sent', () => 'not sent')")
	if n := len(page.Problems()); n < 3 {
		t.Errorf("the browser reported %d violations, want one each for the script, the style and the request: %q", n, page.Problems())
	}
}

// TestHostileNames checks that names and errors are text on the page, whatever they
// contain.
func TestHostileNames(t *testing.T) {
	_, addrs := newBackends(t, 1)
	name := "`<img src=x onerror=\"window.hostile=1\">/ä b`"
	s := serve(t, service(lab.FreeAddr(), name, addrs), "")
	page := s.open(desk, "/")
	if got, want := page.text(".name"), strings.Trim(name, "`"); got != want {
		t.Errorf("the name is %q, want %q", got, want)
	}
	page.click("Hold clients") // its path has to be escaped
	page.confirm("Hold")
	page.wait("document.querySelector('.result-done')")
	if eval[bool](page, "'hostile' in window || document.querySelector('article img') !== null") {
		t.Error("a name became markup")
	}
}

// TestSecretsAreNotShown checks everything that the page sends for what comes from
// the environment and for the command of an event hook.
func TestSecretsAreNotShown(t *testing.T) {
	t.Setenv("RELAY_TEST_TOKEN", "hunter2")
	backends, addrs := newBackends(t, 2)
	listen := lab.FreeAddr()
	s := serve(t, service(listen, "orders", addrs,
		"health_check {\n interval 200ms\n http /health?token={env.RELAY_TEST_TOKEN}\n}", "event_hook true --password {env.RELAY_TEST_TOKEN} hunter2-argument"), "")
	page := s.open(desk, "/")
	backends[0].Kill()
	page.wait("document.querySelectorAll('.state-down').length === 2") // the other one does not speak HTTP
	page.wait("document.querySelector('.facts').textContent.includes('health check: http')")
	for _, path := range []string{"", "table", "journal?service=orders"} {
		body := eval[string](page, fmt.Sprintf("fetch(%q).then((r) => r.text())", path))
		if strings.Contains(body, "hunter2") {
			t.Errorf("/%s has the secret", path)
		}
	}
	events := eval[string](page, "fetch('events').then(async (r) => { const reader = r.body.getReader(); let all = ''; while (!all.includes('event: state') || !all.endsWith('\\n\\n')) all += new TextDecoder().decode((await reader.read()).value); reader.cancel(); return all })")
	if strings.Contains(events, "hunter2") || !strings.Contains(events, "orders") {
		t.Errorf("the events have the secret, or are none:\n%s", events)
	}
	test := eval[string](page, fmt.Sprintf("fetch('relay/services/orders/backends/%s/test', {method: 'POST'}).then((r) => r.text())", addrs[0]))
	if strings.Contains(test, "hunter2") || !strings.Contains(test, addrs[0]) {
		t.Errorf("the test has the secret, or is none: %s", test)
	}
}
