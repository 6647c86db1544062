package browser

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/async-relay/caddy-relay/tools/browser/lab"
)

// dialRefused connects a client that no backend serves, and waits for its end.
func dialRefused(t *testing.T, addr string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return // reset before the connect was seen
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(limit))
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Fatal("a client got an answer from a dead backend")
	}
}

// named is the script that finds a visible button by its label or text.
const named = `((name) => [...document.querySelectorAll('button')].find((b) => b.checkVisibility() && (b.getAttribute('aria-label') ?? b.textContent) === name))`

// click clicks a button, by its label or text.
func (p *tab) click(name string) {
	p.t.Helper()
	p.wait(fmt.Sprintf("%s(%q)", named, name))
	if !eval[bool](p, fmt.Sprintf("(() => { const b = %s(%q); b.scrollIntoView({block: 'center'}); b.focus(); return true })()", named, name)) {
		p.t.Fatal("cannot focus", name)
	}
	box := eval[[]float64](p, fmt.Sprintf("(() => { const r = %s(%q).getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] })()", named, name))
	if err := p.Do(chromedp.MouseClickXY(box[0], box[1])); err != nil {
		p.t.Fatal(err)
	}
}

// confirm checks that a dialog says what will happen, and confirms it.
func (p *tab) confirm(word string) (said string) {
	p.t.Helper()
	p.wait("document.querySelector('dialog[open] fieldset')")
	said = p.text("dialog fieldset")
	if len(said) < 40 {
		p.t.Errorf("the dialog says only %q", said)
	}
	// In a dialog, only its own buttons can be clicked.
	p.wait(fmt.Sprintf("[...document.querySelectorAll('dialog button')].some((b) => b.textContent === %q)", word))
	box := eval[[]float64](p, fmt.Sprintf("(() => { const r = [...document.querySelectorAll('dialog button')].find((b) => b.textContent === %q).getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] })()", word))
	if err := p.Do(chromedp.MouseClickXY(box[0], box[1])); err != nil {
		p.t.Fatal(err)
	}
	return said
}

// key presses keys.
func (p *tab) key(keys string) {
	p.t.Helper()
	if err := p.Do(chromedp.KeyEvent(keys)); err != nil {
		p.t.Fatal(err)
	}
}

// state returns the state of a service from the admin API.
func (s *site) state(name string) (v struct {
	Held     time.Time `json:"held_until"`
	Backends []struct {
		Address string `json:"address"`
		State   string `json:"state"`
		Drill   string `json:"drill"`
	} `json:"backends"`
}) {
	s.t.Helper()
	s.get("/relay/services/"+name, &v)
	return v
}

func (s *site) get(path string, v any) {
	s.t.Helper()
	response, err := http.Get("http://" + s.Admin + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	if err := json.Unmarshal(body, v); err != nil {
		s.t.Fatalf("GET %s: %v: %s", path, err, body)
	}
}

// requester returns who is behind the latest journal entry of a kind.
func (s *site) requester(name, kind string) string {
	s.t.Helper()
	var e struct {
		Journal []struct{ Kind, By string }
	}
	s.get("/relay/explain?service="+name, &e)
	for i := len(e.Journal) - 1; i >= 0; i-- {
		if e.Journal[i].Kind == kind {
			return e.Journal[i].By
		}
	}
	return "no entry of kind " + kind
}

// hash returns the hash of a password for basic_auth.
func hash(t *testing.T, password string) string {
	t.Helper()
	out, err := exec.Command(program, "hash-password", "--plaintext", password).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// TestActions checks each button: what the dialog says, what it does, and that the
// journal has the user behind it.
func TestActions(t *testing.T) {
	_, addrs := newBackends(t, 2)
	_, port, _ := net.SplitHostPort(addrs[1])
	a, b := addrs[0], "localhost:"+port
	listen := lab.FreeAddr()
	s := serve(t, service(listen, "orders", []string{a, b}), "basic_auth {\n alice "+hash(t, "secret")+"\n}\nrelay_page")
	page := s.openAs("alice", "secret")
	dial(t, listen)
	page.wait("document.querySelector('.facts').textContent.includes('1 TCP connection')")
	if got := page.text("#who"); !strings.HasPrefix(got, "alice") {
		t.Errorf("the page says that %q is logged in", got)
	}
	stateOf := func(address string) string {
		for _, backend := range s.state("orders").Backends {
			if backend.Address == address {
				return backend.State
			}
		}
		return "absent"
	}

	steps := []struct {
		button, confirm string
		says            string // part of the dialog
		result          string // part of the result
		check           func() string
		kind            string // of the journal entry
	}{
		{"Test " + a, "Test", "changes nothing in the queue", a + " passed", nil, ""},
		{"Drain " + a, "Drain", "Its 1 TCP connection continue", "gets no new clients. Still on it: 1 TCP connection.", func() string { return want(stateOf(a), "draining") }, "drain"},
		{"Drain " + b, "Drain", "no new clients", "Not done: drain " + b + " of orders: it is the last backend that takes new clients", func() string { return want(stateOf(b), "up") }, ""},
		{"Resume " + a, "Resume", "again", "gets new clients again", func() string { return want(stateOf(a), "up") }, "resume"},
		{"Drill " + a, "Start drill", "simulated fault", "runs until", func() string { return want(s.state("orders").Backends[0].Drill, "refuse") }, "drill"},
		{"End drill " + a, "End drill", "as usual again", "has ended", func() string { return want(s.state("orders").Backends[0].Drill, "") }, "drill_ended"},
		{"Reset queue", "Reset", "return to their configured order", "The order is now " + a + ", " + b, nil, "reset"},
		{"Hold clients", "Hold", "New clients wait", "New clients wait until", func() string { return want(fmt.Sprint(s.state("orders").Held.IsZero()), "false") }, "hold"},
		{"Release clients", "Release", "The hold ends", "served again", func() string { return want(fmt.Sprint(s.state("orders").Held.IsZero()), "true") }, "release"},
		{"Flush localhost", "Flush", "queries the DNS again", "Flushed 1 name", nil, "flush"},
		{"Flush all", "Flush", "queries the DNS again", "Flushed", nil, "flush"},
	}
	for _, step := range steps {
		if strings.HasPrefix(step.button, "Flush") { // something must be in the cache
			if _, err := s.Post("/relay/services/orders/backends/"+b+"/test", "", nil); err != nil {
				t.Fatal(err)
			}
			page.wait(named + "('Flush localhost')")
		}
		page.click(step.button)
		if said := page.confirm(step.confirm); !strings.Contains(said, step.says) {
			t.Errorf("%s: the dialog says %q, want %q in it", step.button, said, step.says)
		}
		page.wait("document.querySelector('.result-done, .result-failed')")
		if got := page.text("dialog .result"); !strings.Contains(got, step.result) {
			t.Errorf("%s: the result is %q, want %q in it", step.button, got, step.result)
		}
		page.shot(strings.ReplaceAll(step.button, ":", "."), false)
		if step.check != nil {
			if problem := step.check(); problem != "" {
				t.Errorf("%s: %s", step.button, problem)
			}
		}
		if step.kind != "" {
			if by := s.requester("orders", step.kind); by != "alice" {
				t.Errorf("%s: the journal says that %q did it", step.button, by)
			}
			page.wait("document.querySelector('#journal li .sentence')?.textContent.endsWith('by alice')")
		}
		page.key(kb.Escape)
		page.wait("!document.querySelector('dialog').open")
	}
	page.expect = []string{"status of 409", "status of 400"} // the last backend, and below
	page.shot("page", true)

	page.click("Journal")
	page.wait("document.querySelectorAll('dialog .journal li').length > 5")
	page.shot("Journal", false)
	page.key(kb.Escape)

	// An address that is in no config.
	page.click("Test an address")
	page.key("127.0.0.1:1")
	page.shot("Test an address", false)
	page.key(kb.Enter)
	page.wait("document.querySelector('.result-failed')?.textContent.includes('connection refused')")
	page.shot("Test an address, failed", false)
	page.key(kb.Escape)
	page.click("Test an address")
	page.key("no port")
	page.key(kb.Enter)
	page.wait("document.querySelector('.result-failed')?.textContent.includes('Not done: address')")
	page.key(kb.Escape)
}

// want returns what is wrong with a value.
func want(got, want string) string {
	if got != want {
		return fmt.Sprintf("got %q, want %q", got, want)
	}
	return ""
}

// TestKeyboardOnly drains a backend without a mouse.
func TestKeyboardOnly(t *testing.T) {
	_, addrs := newBackends(t, 2)
	s := serve(t, service(lab.FreeAddr(), "orders", addrs), "")
	page := s.open(desk, "/")
	page.key(kb.Tab)
	if got := eval[string](page, "document.activeElement.textContent"); got != "Skip to the services" {
		t.Errorf("the first Tab reaches %q", got)
	}
	page.key("/")
	page.wait("document.activeElement.id === 'search'")
	label := "Drain " + addrs[0]
	for range 30 {
		page.key(kb.Tab)
		if eval[string](page, "document.activeElement.getAttribute('aria-label') ?? ''") == label {
			break
		}
	}
	page.wait(fmt.Sprintf("document.activeElement.getAttribute('aria-label') === %q", label))
	if outline := eval[string](page, "getComputedStyle(document.activeElement).outlineStyle"); outline != "solid" {
		t.Errorf("the focused button has the outline %q", outline)
	}
	page.shot("focus", false)
	page.key(kb.Enter)
	page.wait("document.querySelector('dialog').open && document.querySelector('dialog').contains(document.activeElement)")
	for range 10 {
		if eval[string](page, "document.activeElement.textContent") == "Drain" {
			break
		}
		page.key(kb.Tab)
	}
	page.shot("dialog", false)
	page.key(kb.Enter)
	page.wait("document.querySelector('.result-done')")
	page.key(kb.Enter) // the focus is on Close
	page.wait("!document.querySelector('dialog').open")
	if got := s.state("orders").Backends[0].State; got != "draining" {
		t.Errorf("the backend is %s", got)
	}
	page.wait("document.activeElement.closest('.backend')") // not lost with the button that is gone
	page.key(kb.Escape)
}
