package browser

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp/kb"

	"github.com/async-relay/caddy-relay/tools/browser/lab"
)

// axeVersion is the version of axe-core that the tests fetch from npm. Its licence
// (MPL-2.0) is not that of the project, so the project does not contain it.
const axeVersion = "4.14.1"

// axe returns the script of axe-core, or skips the test if npm cannot fetch it.
func axe(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = t.TempDir()
	}
	dir := filepath.Join(cache, "caddy-relay", "axe-core-"+axeVersion)
	script := filepath.Join(dir, "package", "axe.min.js")
	if _, err := os.Stat(script); err != nil {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		pack := exec.Command("npm", "pack", "--silent", "axe-core@"+axeVersion)
		pack.Dir = dir
		if out, err := pack.CombinedOutput(); err != nil {
			t.Skipf("npm cannot fetch axe-core %s: %v %s", axeVersion, err, out)
		}
		unpack := exec.Command("tar", "-xzf", "axe-core-"+axeVersion+".tgz", "package/axe.min.js")
		unpack.Dir = dir
		if out, err := unpack.CombinedOutput(); err != nil {
			t.Fatalf("unpack axe-core: %v %s", err, out)
		}
	}
	text, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// violation is a finding of axe-core.
type violation struct {
	ID     string   `json:"id"`
	Impact string   `json:"impact"`
	Help   string   `json:"help"`
	Nodes  []string `json:"nodes"`
}

// checkAccessible runs axe-core on what the page shows now.
func (p *tab) checkAccessible(script, state string) {
	p.t.Helper()
	p.shot(state, true)
	eval[bool](p, script+"\n;true")
	found := eval[[]violation](p, "axe.run(document, {resultTypes: ['violations']}).then((r) => r.violations.map((v) => ({id: v.id, impact: v.impact, help: v.help, nodes: v.nodes.map((n) => n.html + ' ' + n.failureSummary)})))")
	for _, v := range found {
		report := p.t.Errorf
		if v.Impact != "serious" && v.Impact != "critical" {
			report = p.t.Logf
		}
		report("%s: %s (%s): %s\n%s", state, v.Impact, v.ID, v.Help, strings.Join(v.Nodes, "\n"))
	}
}

// TestAccessible checks the page in each of its states, in a light and a dark window
// and on a phone.
func TestAccessible(t *testing.T) {
	script := axe(t)
	backends, addrs := newBackends(t, 3)
	orders, web := lab.FreeAddr(), lab.FreeAddr()
	s := serve(t, service(orders, "orders", addrs, "cooldown 5m")+service(web, "web", addrs[1:])+service(lab.FreeAddr(), "names", []string{"localhost:1"}), "")
	dial(t, orders)
	dial(t, web)
	views := map[string]lab.View{
		"light": desk,
		"dark":  {Width: 1440, Height: 900, Dark: true},
		"phone": {Width: 390, Height: 844, Mobile: true},
		"tall":  {Width: 900, Height: 1400},
	}
	// One tab at a time: those in the background are not drawn.
	for name, view := range views {
		page := s.open(view, "/")
		page.checkAccessible(script, name+", all is well")
		page.Close()
	}
	backends[0].Kill()
	dial(t, orders)
	for path, body := range map[string]string{
		"/relay/services/web/backends/" + addrs[1] + "/drain":    "",
		"/relay/services/orders/backends/" + addrs[1] + "/drill": `{"fault": "slow"}`,
		"/relay/services/web/hold":                               "",
		"/relay/services/names/backends/localhost:1/test":        "",
	} {
		if _, err := s.Post(path, "application/json", []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	for name, view := range views {
		page := s.open(view, "/")
		page.wait("document.querySelector('.state-cooling') && document.querySelector('.state-draining') && document.querySelector('.drill:not([hidden])') && document.querySelector('.hold:not([hidden])') && document.querySelector('.names li')")
		page.checkAccessible(script, name+", trouble")
		page.click("Drill " + addrs[2])
		page.wait("document.querySelector('dialog').open")
		page.checkAccessible(script, name+", dialog")
		page.key(kb.Escape)
		page.Close()
	}
	// The one that refreshes itself fails a rule on purpose, and links to this one.
	table := s.open(desk, "/table?still")
	table.checkAccessible(script, "table")
}

// TestPhone checks that nothing is wider than a phone, and that a finger hits the
// buttons.
func TestPhone(t *testing.T) {
	backends, addrs := newBackends(t, 2)
	long := strings.Repeat("a-very-long-name.of-a-host.", 5) + "example.com:5432"
	listen := lab.FreeAddr()
	s := serve(t, service(listen, "orders-of-the-whole-company-"+strings.Repeat("x", 40), append(addrs, long)), "")
	backends[0].Kill()
	dial(t, listen)
	page := s.open(lab.View{Width: 390, Height: 844, Mobile: true}, "/")
	page.wait("document.querySelector('.state-down')")
	if got := eval[int](page, "document.documentElement.scrollWidth"); got > 390 {
		t.Errorf("the page is %d pixels wide", got)
	}
	if got := eval[[]string](page, "[...document.querySelectorAll('button')].filter((b) => b.checkVisibility() && b.getBoundingClientRect().height < 34).map((b) => b.textContent + ' ' + b.getBoundingClientRect().height)"); len(got) > 0 {
		t.Errorf("buttons that are too low for a finger: %q", got)
	}
	if got := eval[[]string](page, "[...document.querySelectorAll('main *, aside *')].filter((e) => e.checkVisibility() && e.getBoundingClientRect().right > 391 && !e.closest('.visually-hidden')).map((e) => e.className + ' ' + e.textContent.slice(0, 40))"); len(got) > 0 {
		t.Errorf("cut off at the right: %q", got)
	}
	page.shot("phone", true)
	page.click("Drill " + addrs[1])
	page.wait("document.querySelector('dialog').open")
	if got := eval[bool](page, "(() => { const r = document.querySelector('dialog').getBoundingClientRect(); return r.left >= 0 && r.right <= 390 && r.bottom <= innerHeight })()"); !got {
		t.Error("the dialog does not fit")
	}
	page.shot("dialog", false)
	page.key(kb.Escape)
}

// TestDark checks that a dark window gets a dark page.
func TestDark(t *testing.T) {
	_, addrs := newBackends(t, 1)
	s := serve(t, service(lab.FreeAddr(), "orders", addrs), "")
	for dark, most := range map[bool]string{true: "< 60", false: "> 200"} {
		page := s.open(lab.View{Width: 1440, Height: 900, Dark: dark}, "/")
		for _, element := range []string{"html", ".summary", ".service", ".backend"} {
			brightest := fmt.Sprintf("getComputedStyle(document.querySelector(%q)).backgroundColor.match(/\\d+/g).slice(0, 3).every((n) => Number(n) %s)", element, most)
			if element == ".backend" && dark {
				brightest = strings.Replace(brightest, most, "< 90", 1) // the first backend is tinted
			}
			if !eval[bool](page, brightest) {
				t.Errorf("dark %t: the background of %s is %s", dark, element, eval[string](page, fmt.Sprintf("getComputedStyle(document.querySelector(%q)).backgroundColor", element)))
			}
		}
	}
}
