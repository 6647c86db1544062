package module

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

// Admin adds the paths below /relay/ to Caddy's admin API. They show services
// and let an operator change them.
//
// Admin has no state, because Caddy creates one before the apps of a config,
// keeps the one of a rejected config, and cleans none of them up. It works on
// the services themselves, which configs share.
type Admin struct{}

// CaddyModule returns the Caddy module information.
func (Admin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.relay",
		New: func() caddy.Module { return new(Admin) },
	}
}

// endpoint handles the requests of one method and path.
type endpoint struct {
	method  string
	pattern string                           // for http.ServeMux; an escaped slash does not end a segment
	handle  func(*http.Request) (any, error) // returns the response, which is encoded as JSON
}

var endpoints = []endpoint{
	{http.MethodGet, "/relay/services", getServices},
	{http.MethodGet, "/relay/services/{service}", getService},
	{http.MethodPost, "/relay/services/{service}/reset", postReset},
	{http.MethodPost, "/relay/services/{service}/hold", postHold},
	{http.MethodPost, "/relay/services/{service}/release", postRelease},
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
		return apiErrorf(http.StatusMethodNotAllowed, "method %s not allowed, use %s", r.Method, e.method)
	}
	response, err := e.handle(r)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(response)
}

func noEndpoint(_ http.ResponseWriter, r *http.Request) error {
	return apiErrorf(http.StatusNotFound, "no endpoint %s", r.URL.EscapedPath())
}

func apiErrorf(status int, format string, args ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, args...)}
}

// errUnknown returns the error for a name of no service or backend. what is
// "service" or "backend", and known are the existing names.
func errUnknown(what, name string, known []string) error {
	if len(known) == 0 {
		return apiErrorf(http.StatusNotFound, "unknown %s %q (no %ss)", what, name, what)
	}
	return apiErrorf(http.StatusNotFound, "unknown %s %q (have %s)", what, name, strings.Join(known, ", "))
}

// requester returns the client address of a request, for the log and the journal.
func requester(r *http.Request) string {
	if r.RemoteAddr == "" || r.RemoteAddr == "@" {
		return "unix socket"
	}
	return r.RemoteAddr
}

// logOperation logs a change that an operator made.
func logOperation(r *http.Request, action string, fields ...zap.Field) {
	fields = append([]zap.Field{zap.String("action", action), zap.String("remote", requester(r))}, fields...)
	processLog().Info("changed through the admin API", fields...)
}

// Interface guards.
var (
	_ caddy.AdminRouter  = (*Admin)(nil)
	_ caddy.AdminHandler = endpoint{}
)
