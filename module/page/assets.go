package page

import (
	"embed"
	"net/http"
)

//go:embed static
var static embed.FS

// pageRoutes returns the routes of the page itself.
func (p *RelayPage) pageRoutes() []route {
	routes := []route{
		{method: http.MethodGet, pattern: "/{$}", handle: serveFile("index.html")},
		{method: http.MethodGet, pattern: "/app.js", handle: serveFile("app.js")},
		{method: http.MethodGet, pattern: "/style.css", handle: serveFile("style.css")},
		{method: http.MethodGet, pattern: "/icon.svg", handle: serveFile("icon.svg")},
		{method: http.MethodGet, pattern: "/table", handle: p.serveTable},
		{method: http.MethodGet, pattern: "/events", handle: p.serveEvents},
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
