package module

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

// Admin is what the relay adds to Caddy's admin API, below /relay/: services
// as they are, and what an operator does to them.
//
// Caddy makes one before the apps of a config, keeps that of a rejected
// config, and cleans none up. So it has no state: it shows and changes what
// services share across reloads.
type Admin struct{}

// CaddyModule returns the Caddy module information.
func (Admin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.relay",
		New: func() caddy.Module { return new(Admin) },
	}
}

// endpoint answers one kind of request.
type endpoint struct {
	method  string
	pattern string // of http.ServeMux, which takes escaped slashes as part of a name
	answer  func(*http.Request) (any, error)
}

var endpoints = []endpoint{
	{http.MethodGet, "/relay/services", getServices},
	{http.MethodGet, "/relay/services/{service}", getService},
	{http.MethodPost, "/relay/services/{service}/reset", postReset},
	{http.MethodPost, "/relay/services/{service}/backends/{backend}/test", postTest},
	{http.MethodPost, "/relay/services/{service}/backends/{backend}/drain", postDrain},
	{http.MethodPost, "/relay/services/{service}/backends/{backend}/resume", postResume},
	{http.MethodGet, "/relay/explain", getExplanation},
	{http.MethodGet, "/relay/dns", getDNS},
	{http.MethodPost, "/relay/dns/flush", postFlush},
}

// Routes implements caddy.AdminRouter.
func (Admin) Routes() []caddy.AdminRoute {
	routes := []caddy.AdminRoute{{Pattern: "/relay/", Handler: caddy.AdminHandlerFunc(noEndpoint)}}
	for _, e := range endpoints {
		routes = append(routes, caddy.AdminRoute{Pattern: e.pattern, Handler: e})
	}
	return routes
}

// ServeHTTP implements caddy.AdminHandler.
func (e endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	if r.Method != e.method && (r.Method != http.MethodHead || e.method != http.MethodGet) {
		allowed := e.method
		if allowed == http.MethodGet {
			allowed += ", " + http.MethodHead
		}
		w.Header().Set("Allow", allowed)
		return apiErrorf(http.StatusMethodNotAllowed, "method %s is not allowed here, but %s", r.Method, allowed)
	}
	answer, err := e.answer(r)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(answer)
}

func noEndpoint(_ http.ResponseWriter, r *http.Request) error {
	return apiErrorf(http.StatusNotFound, "no endpoint %s", r.URL.EscapedPath())
}

func apiErrorf(status int, format string, args ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, args...)}
}

// unknown is the answer to a name that nothing has.
func unknown(what, name string, known []string) error {
	if len(known) == 0 {
		return apiErrorf(http.StatusNotFound, "unknown %s %q: there is none", what, name)
	}
	return apiErrorf(http.StatusNotFound, "unknown %s %q: there is %s", what, name, strings.Join(known, ", "))
}

// remote says where a request came from, for the log and the journal.
func remote(r *http.Request) string {
	if r.RemoteAddr == "" || r.RemoteAddr == "@" {
		return "unix socket"
	}
	return r.RemoteAddr
}

// tellOperation writes a change by an operator into the log.
func tellOperation(r *http.Request, action string, fields ...zap.Field) {
	fields = append([]zap.Field{zap.String("action", action), zap.String("remote", remote(r))}, fields...)
	processLog().Info("changed through the admin API", fields...)
}

// Interface guards.
var (
	_ caddy.AdminRouter  = (*Admin)(nil)
	_ caddy.AdminHandler = endpoint{}
)
