package page

import (
	"embed"
	"net/http"
	"path"
)

// static holds the files of the page. They are served as they are; only table.html
// is a template.
//
//go:embed static
var static embed.FS

// pageRoutes returns the routes of the page itself.
func (p *Handler) pageRoutes() []route {
	routes := []route{
		{method: http.MethodGet, pattern: "/{$}", handle: serveFile("index.html")},
		{method: http.MethodGet, pattern: "/table", handle: p.serveTable},
		{method: http.MethodGet, pattern: "/events", handle: p.serveEvents},
		{method: http.MethodGet, pattern: "/journal", handle: p.serveJournal},
	}
	files, _ := static.ReadDir("static") // cannot fail: the directory is in the program
	for _, file := range files {
		if path.Ext(file.Name()) != ".html" {
			routes = append(routes, route{method: http.MethodGet, pattern: "/" + file.Name(), handle: serveFile(file.Name())})
		}
	}
	for _, e := range p.relays.Endpoints() {
		routes = append(routes, route{method: e.Method, pattern: e.Pattern, changes: e.Method != http.MethodGet, handle: serveEndpoint(e)})
	}
	return routes
}

func serveFile(name string) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		http.ServeFileFS(w, r, static, "static/"+name)
		return nil
	}
}

// serveEndpoint serves an endpoint of the admin API, for the operator of the page.
func serveEndpoint(e Endpoint) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		response, err := e.Handle(r.WithContext(WithOperator(r.Context(), operator(r))))
		if err != nil {
			return err
		}
		return writeJSON(w, http.StatusOK, response)
	}
}

// serveJournal serves the journal of a service, the oldest entry first.
func (p *Handler) serveJournal(w http.ResponseWriter, r *http.Request) error {
	name := r.URL.Query().Get("service")
	for _, s := range p.relays.Services() {
		if s.Name != name {
			continue
		}
		entries := []entryView{}
		for _, e := range s.Journal(0) {
			entries = append(entries, newEntryView(e, 0))
		}
		return writeJSON(w, http.StatusOK, entries)
	}
	return statusErrorf(http.StatusNotFound, "unknown service %q", name)
}
