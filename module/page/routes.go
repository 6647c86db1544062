package page

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// route handles the requests of one path below the page, with one method. HEAD
// belongs to GET. The handler has all routes in one table, which it passes
// through newPaths.
type route struct {
	method  string
	pattern string // of the path, for http.ServeMux: "/events", "/api/config"
	changes bool   // the route does not exist with read_only
	handle  func(http.ResponseWriter, *http.Request) error
}

// routes returns all routes of the page.
func (p *Handler) routes() []route {
	return append(p.pageRoutes(), p.originalRoutes()...)
}

// newPaths returns a mux of the routes. It leaves out those that change something
// if readOnly is set.
func newPaths(routes []route, readOnly bool) *http.ServeMux {
	mux := http.NewServeMux()
	for _, route := range routes {
		if route.changes && readOnly {
			continue
		}
		mux.HandleFunc(route.method+" "+route.pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := route.handle(w, r); err != nil {
				_ = writeError(w, err)
			}
		})
	}
	return mux
}

// errNoRoute returns the error for a request that no route handles.
func (p *Handler) errNoRoute(r *http.Request) error {
	if p.ReadOnly && r.Method != http.MethodGet && r.Method != http.MethodHead {
		return statusErrorf(http.StatusNotFound, "no %s %s: the page is read-only", r.Method, r.URL.Path)
	}
	return statusErrorf(http.StatusNotFound, "no %s %s", r.Method, r.URL.Path)
}

// writeJSON writes a response.
func writeJSON(w http.ResponseWriter, status int, response any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(response)
}

// writeError writes an error as {"error": text}, with the status of a
// caddy.APIError or 500. It returns nil: the error has been reported to the client.
func writeError(w http.ResponseWriter, err error) error {
	status := http.StatusInternalServerError
	var known caddy.APIError
	if errors.As(err, &known) && known.HTTPStatus != 0 {
		status = known.HTTPStatus
	}
	text := strings.TrimSpace(known.Message)
	if text == "" {
		text = err.Error()
		if known.Err != nil {
			text = known.Err.Error()
		}
	}
	_ = writeJSON(w, status, map[string]string{"error": text})
	return nil
}
