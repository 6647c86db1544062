// Package browser tests the live page with a real Caddy and a real browser.
package browser

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/tools/browser/lab"
)

// What all tests share. They run one after the other.
var (
	program string          // the Caddy of this checkout
	browser context.Context // a chromium
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if _, err := lab.FindChromium(); err != nil {
		fmt.Println("--- SKIP: all tests of the page:", err)
		return 0
	}
	dir, err := os.MkdirTemp("", "relay-browser")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	if program, err = lab.Build(context.Background(), dir); err != nil {
		panic(err)
	}
	started, cancel, err := lab.Chrome(context.Background())
	if err != nil {
		panic(err)
	}
	defer cancel()
	browser = started
	return m.Run()
}

// desk is a window on a desk.
var desk = lab.View{Width: 1440, Height: 900}

// site is a Caddy that serves the page.
type site struct {
	*lab.Caddy
	t    *testing.T
	addr string // of the page
}

// serve starts a Caddy with these services, and the page at its own address.
// directive is what the site has, with ADDR for its address. It is "relay_page" if
// it is empty.
func serve(t *testing.T, services, directive string) *site {
	t.Helper()
	s := &site{t: t, addr: lab.FreeAddr()}
	caddy, err := lab.Start(program, t.TempDir(), lab.FreeAddr(), layer4(services), s.site(directive))
	if err != nil {
		t.Fatal(err)
	}
	s.Caddy = caddy
	t.Cleanup(func() {
		if err := s.Stop(); err != nil { // also shows that open streams do not delay the exit
			t.Error(err)
		}
	})
	return s
}

func layer4(services string) string { return "\tlayer4 {\n" + services + "\n\t}" }

func (s *site) site(directive string) string {
	if directive == "" {
		directive = "relay_page"
	}
	return fmt.Sprintf("http://%s {\n%s\n}", s.addr, directive)
}

// service returns a layer4 server with one relay that has this name.
func service(listen, name string, backends []string, options ...string) string {
	return fmt.Sprintf("relay+tcp/%s {\n route {\n relay %s {\n name %s\n %s\n }\n }\n }\n", listen, strings.Join(backends, " "), name, strings.Join(options, "\n"))
}

// open opens the page, waits for its first drawing, and checks at the end of the
// test that the browser had nothing to complain about.
func (s *site) open(view lab.View, path string) *tab {
	s.t.Helper()
	opened, err := lab.Open(browser, "http://"+s.addr+path, view)
	if err != nil {
		s.t.Fatal(err)
	}
	page := &tab{Tab: opened, t: s.t}
	s.t.Cleanup(func() {
		for _, problem := range page.Problems() {
			if !page.expected(problem) {
				s.t.Error("the browser complains:", problem)
			}
		}
		page.Close()
	})
	if !view.NoScript && !strings.HasPrefix(path, "/table") {
		page.wait("window.relayPage?.ready")
	}
	return page
}

// openAs opens the page as a user of basic_auth.
func (s *site) openAs(user, password string) *tab {
	s.t.Helper()
	return s.open(lab.View{Width: desk.Width, Height: desk.Height, User: user, Password: password}, "/")
}

// tab is an open page.
type tab struct {
	*lab.Tab
	t      *testing.T
	expect []string // parts of problems that the test causes
}

func (p *tab) expected(problem string) bool {
	for _, part := range p.expect {
		if strings.Contains(problem, part) {
			return true
		}
	}
	return false
}

// limit bounds every wait of a test. A test that reaches it has failed, so it is long
// enough for a busy machine.
const limit = 30 * time.Second

// wait waits until an expression is true.
func (p *tab) wait(expression string) {
	p.t.Helper()
	if _, err := p.Wait(expression, limit); err != nil {
		p.shot("failed", true)
		p.t.Fatal(err)
	}
}

// eval evaluates an expression.
func eval[T any](p *tab, expression string) T {
	p.t.Helper()
	value, err := lab.Eval[T](p.Tab, expression)
	if err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	return value
}

// text returns the text of the first element that a selector finds.
func (p *tab) text(selector string) string {
	p.t.Helper()
	return eval[string](p, fmt.Sprintf("document.querySelector(%q)?.textContent ?? ''", selector))
}

// shot writes a screenshot into the directory RELAY_SCREENSHOTS, or into one that
// the test removes.
func (p *tab) shot(name string, whole bool) {
	p.t.Helper()
	dir := os.Getenv("RELAY_SCREENSHOTS")
	if dir == "" {
		dir = p.t.TempDir()
	}
	if err := p.Shot(filepath.Join(dir, strings.ReplaceAll(p.t.Name(), "/", "_")+"-"+name+".png"), whole); err != nil {
		p.t.Error(err)
	}
}

// newBackends starts backends.
func newBackends(t *testing.T, n int) (list []*lab.Backend, addrs []string) {
	t.Helper()
	for range n {
		b, err := lab.NewBackend()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Kill)
		list, addrs = append(list, b), append(addrs, b.Addr)
	}
	return list, addrs
}

// dial connects a client and has one exchange with a backend.
func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(limit))
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	return conn
}
