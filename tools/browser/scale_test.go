package browser

import (
	"fmt"
	"github.com/async-relay/caddy-relay/tools/browser/lab"
	"slices"
	"strings"
	"testing"
)

// thousand returns the services of a layer4 app with a thousand relays. Their health
// checks fail, so that each of them changes every second.
func thousand(live, dead string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "relay+tcp/%s {\n", lab.FreeAddr())
	for i := range 1000 {
		fmt.Fprintf(&b, "@s%d tls sni s%d.example\nroute @s%d {\n relay %s 127.0.0.2:%s 127.0.0.3:%[5]s {\n name service-%[1]d\n health_check 1s\n }\n}\n", i, i, i, live, dead)
	}
	b.WriteString("}\n")
	return b.String()
}

// TestThousandServices measures the page with a thousand services, all of which
// change all the time.
func TestThousandServices(t *testing.T) {
	_, addrs := newBackends(t, 1)
	_, dead, _ := strings.Cut(lab.FreeAddr(), ":")
	s := serve(t, thousand(addrs[0], dead), "")
	// A busy machine may delay one page.
	var page *tab
	var paint, ready float64
	for try := range 3 {
		if try > 0 {
			page.Close()
		}
		page = s.open(desk, "/")
		paint = eval[float64](page, "performance.getEntriesByType('paint').find((e) => e.name === 'first-contentful-paint').startTime")
		ready = eval[float64](page, "relayPage.ready")
		if paint <= 1000 {
			break
		}
	}
	page.wait("document.querySelector('#count-all').textContent === '1,000' && document.querySelectorAll('.service').length === 100")

	// The browser reports tasks of more than 50 ms by itself.
	eval[bool](page, `window.prof = {}; for (const [o, names] of [[relayPage, ['apply', 'replace', 'sample', 'draw', 'drawList', 'summarize']], [relayPage.journalView, ['add', 'reset']], [relayPage.namesView, ['update']]]) for (const n of names) { const f = o[n].bind(o); o[n] = (...a) => { const t = performance.now(); const r = f(...a); (prof[n] ??= []).push(Math.round(performance.now() - t)); return r } }; true`)
	eval[bool](page, "window.long = []; new PerformanceObserver((list) => window.long.push(...list.getEntries().map((e) => e.duration))).observe({type: 'longtask'}); relayPage.timings.length = 0; true")
	page.wait("relayPage.timings.length >= 10")
	timings := eval[[]float64](page, "relayPage.timings")
	long := eval[[]float64](page, "window.long")
	t.Log(eval[map[string][]float64](page, "prof"))
	slices.Sort(timings)
	median, worst := timings[len(timings)/2], timings[len(timings)-1]
	t.Logf("first paint after %.0f ms, all services after %.0f ms; of %d updates the median took %.1f ms of the main thread and the longest %.1f ms; %d tasks above 50 ms: %.0f", paint, ready, len(timings), median, worst, len(long), long)
	// The bounds are for a machine that is not busy; a busy one gets some more.
	if paint > 1000 {
		t.Errorf("the first paint came after %.0f ms, want at most 1000", paint)
	}
	if median > 50 {
		t.Errorf("half of the updates took more than %.1f ms of the main thread, want at most 50", median)
	}
	page.shot("all", false)

	page.click("Problems 1,000")
	eval[bool](page, "document.getElementById('search').focus(); true")
	page.key("service-77")
	page.wait("document.querySelectorAll('.service').length === 11") // 77, 770 to 779
	page.shot("search", false)
}
