package page

import (
	"cmp"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// tableTemplate is the page for browsers without JavaScript.
var tableTemplate = template.Must(template.New("table.html").Funcs(template.FuncMap{
	"bytes": humanize.Bytes,
	"upper": strings.ToUpper,
	"clock": func(ms int64) string { return time.UnixMilli(ms).Format(time.TimeOnly) },
	"left":  func(ms int64) string { return max(0, time.Until(time.UnixMilli(ms)).Round(time.Second)).String() },
	"state": func(n networkView) string { return stateWords[n.State] },
}).ParseFS(static, "static/table.html"))

// tableEntries is the number of journal entries in the table.
const tableEntries = 30

// serveTable serves the state of this moment as a table that refreshes itself, unless
// the query has "still": a page that moves must be able to stop.
func (p *Handler) serveTable(w http.ResponseWriter, r *http.Request) error {
	now := time.Now()
	var list []*serviceView
	var entries []entryView
	for _, s := range p.relays.Services() {
		reading := countsOf(&s.Service, now)
		list = append(list, newServiceView(&s, reading, newHistory(reading)))
		for _, e := range s.Journal(s.Entries - min(s.Entries, tableEntries)) {
			entry := newEntryView(e, 0)
			entry.Text = s.Name + ": " + entry.Text
			entries = append(entries, entry)
		}
	}
	slices.SortStableFunc(list, func(a, b *serviceView) int {
		return slices.Index(levels, b.Level) - slices.Index(levels, a.Level)
	})
	slices.SortStableFunc(entries, func(a, b entryView) int { return cmp.Compare(b.At, a.At) })
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	return tableTemplate.Execute(w, map[string]any{
		"Services": list, "Entries": entries[:min(len(entries), tableEntries)], "Now": now.UnixMilli(), "Summary": summarize(list),
		"Still": r.URL.Query().Has("still"),
	})
}

// summarize describes all services in a sentence.
func summarize(list []*serviceView) string {
	var bad, warn int
	for _, s := range list {
		switch s.Level {
		case levelBad:
			bad++
		case levelWarn:
			warn++
		}
	}
	plural := func(n int, one, many string) string {
		if n == 1 {
			return "1 " + one
		}
		return humanize.Comma(int64(n)) + " " + many
	}
	var parts []string
	if bad > 0 {
		parts = append(parts, plural(bad, "service has no working backend", "services have no working backend"))
	}
	if warn > 0 {
		parts = append(parts, plural(warn, "service has a problem", "services have problems"))
	}
	switch {
	case len(list) == 0:
		return "No services"
	case len(parts) == 0:
		return "All is well: " + plural(len(list), "service", "services")
	default:
		return strings.Join(parts, ", ")
	}
}
