package browser

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/tools/browser/lab"
)

// first is the address of the first backend on the page.
const first = "document.querySelector('.queue .backend .address').textContent"

// TestKilledBackendShows checks that the page shows a failover within a second,
// without being asked, and says why it happened.
func TestKilledBackendShows(t *testing.T) {
	backends, addrs := newBackends(t, 2)
	listen := lab.FreeAddr()
	s := serve(t, service(listen, "orders", addrs), "")
	page := s.open(desk, "/")
	dial(t, listen)
	page.wait(fmt.Sprintf("%s === %q && document.querySelector('.figure-active b').textContent === '1'", first, addrs[0]))
	if got := page.text("#summary-line"); got != "All is well" {
		t.Errorf("the summary is %q while all backends work", got)
	}
	page.shot("before", true)

	// A busy machine may delay one round.
	fastest := time.Hour
	for range 3 {
		backends[0].Kill()
		began := time.Now()
		dial(t, listen)
		page.wait(fmt.Sprintf("%s === %q", first, addrs[1]))
		fastest = min(fastest, time.Since(began))
		if fastest < time.Second {
			break
		}
		if err := backends[0].Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Post("/relay/services/orders/reset", "", nil); err != nil {
			t.Fatal(err)
		}
		page.wait(fmt.Sprintf("%s === %q", first, addrs[0]))
	}
	t.Logf("the page showed the failover after %s", fastest)
	if fastest >= time.Second {
		t.Errorf("the page showed the failover after %s, want less than a second", fastest)
	}
	page.wait(fmt.Sprintf("document.querySelector('#summary-line').textContent === 'orders: %s is down'", addrs[0]))
	if got := page.text(".state-down .state"); !strings.HasPrefix(got, "down ") {
		t.Errorf("the state of the dead backend is %q", got)
	}
	if got, want := page.text("#journal li .sentence"), fmt.Sprintf("orders %s moved to the end: second strike, connection refused, seen by 127.0.0.1", addrs[0]); got != want {
		t.Errorf("the journal begins with %q, want %q", got, want)
	}
	if got := page.text(".failure:not([hidden])"); !strings.Contains(got, ": connection refused") {
		t.Errorf("the last failure is %q", got)
	}
	if got := page.text(".backend.first .gets"); got != "new clients" {
		t.Errorf("the first backend is marked %q", got)
	}
	page.shot("after", true)

	backends[1].Kill()
	page.wait("document.querySelector('.service')")
	dialRefused(t, listen)
	page.wait("document.querySelector('#summary').classList.contains('level-bad')")
	page.wait("document.querySelector('.facts').textContent.includes('1 client refused (no backend left)')")
	page.shot("all-down", true)
}

// TestPageFollowsReload checks that a page that is open shows the next config, and
// that the stream of the old one ends.
func TestPageFollowsReload(t *testing.T) {
	_, addrs := newBackends(t, 1)
	one := service(lab.FreeAddr(), "one", addrs)
	s := serve(t, one, "")
	page := s.open(desk, "/")
	streams := eval[int](page, "performance.getEntriesByType('resource').filter((e) => e.name.endsWith('/events')).length")
	if err := s.Reload(layer4(one+service(lab.FreeAddr(), "two", addrs)), s.site("")); err != nil {
		t.Fatal(err)
	}
	page.wait("document.querySelectorAll('.service').length === 2")
	// A stream is listed as a resource once it has ended.
	page.wait(fmt.Sprintf("performance.getEntriesByType('resource').filter((e) => e.name.endsWith('/events')).length > %d", streams))
	if got := page.text("#lost"); got != "" {
		t.Errorf("after a reload the page says %q", got)
	}
}

// TestLostConnectionShows checks that a page without a server says that it is old.
func TestLostConnectionShows(t *testing.T) {
	_, addrs := newBackends(t, 1)
	s := serve(t, service(lab.FreeAddr(), "orders", addrs), "")
	page := s.open(desk, "/")
	page.expect = []string{"ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING"}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	page.wait("document.querySelector('#lost').textContent.startsWith('Not connected')")
	page.shot("lost", true)
}

// TestPathPrefix checks that the page works below a prefix, and that the prefix
// without a slash leads to it.
func TestPathPrefix(t *testing.T) {
	_, addrs := newBackends(t, 2)
	s := serve(t, service(lab.FreeAddr(), "orders", addrs), "handle_path /ops/relay* {\n relay_page\n}")
	page := s.open(desk, "/ops/relay")
	if got := eval[string](page, "location.pathname"); got != "/ops/relay/" {
		t.Errorf("the page is at %s", got)
	}
	page.wait("document.querySelectorAll('.backend').length === 2")
	page.click("Drain " + addrs[0])
	page.confirm("Drain")
	page.wait("document.querySelector('.result-done')")
}

// TestReadOnly checks that a read-only page has no actions, and that their requests do
// not exist.
func TestReadOnly(t *testing.T) {
	_, addrs := newBackends(t, 2)
	s := serve(t, service(lab.FreeAddr(), "orders", addrs), "relay_page read_only")
	page := s.open(desk, "/")
	page.expect = []string{"status of 404"}
	if got := eval[[]string](page, "[...document.querySelectorAll('button.action')].filter((b) => b.checkVisibility()).map((b) => b.textContent)"); strings.Join(got, " ") != "Journal" {
		t.Errorf("a read-only page has the buttons %q", got)
	}
	for _, path := range []string{"relay/services/orders/reset", "relay/dns/flush", "relay/test"} {
		if got := eval[int](page, fmt.Sprintf("fetch(%q, {method: 'POST'}).then((r) => r.status)", path)); got != 404 {
			t.Errorf("POST %s: status %d, want 404", path, got)
		}
	}
	page.shot("read-only", true)
}

// TestTableWithoutScript checks that a browser without JavaScript gets a table that
// refreshes itself.
func TestTableWithoutScript(t *testing.T) {
	backends, addrs := newBackends(t, 2)
	listen := lab.FreeAddr()
	s := serve(t, service(listen, "orders", addrs), "")
	backends[0].Kill()
	dial(t, listen)
	page := s.open(lab.View{Width: 1440, Height: 900, NoScript: true}, "/")
	page.wait("location.pathname === '/table' && document.querySelectorAll('tbody tr').length === 2")
	for _, want := range []string{addrs[0] + " is down", "TCP down", "moved to the end: second strike, connection refused"} {
		page.wait(fmt.Sprintf("document.querySelector('main')?.textContent.includes(%q)", want)) // it is not there during a refresh
	}
	page.shot("table", true)
	backends[1].Kill()
	dialRefused(t, listen)
	page.wait("document.querySelector('.summary-line')?.textContent === '1 service has no working backend'")
}
