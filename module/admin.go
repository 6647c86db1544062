package module

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/module/api"
	"github.com/async-relay/caddy-relay/module/page"
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

// endpoint handles the requests of one path, with one method and possibly GET.
type endpoint struct {
	method  string
	pattern string                           // for http.ServeMux; an escaped slash does not end a segment
	handle  func(*http.Request) (any, error) // returns the response, which is encoded as JSON
	get     func(*http.Request) (any, error) // handles GET if method is another one; nil: GET is not allowed then
}

var endpoints = []endpoint{
	{method: http.MethodGet, pattern: "/relay/services", handle: getServices},
	{method: http.MethodGet, pattern: "/relay/services/{service}", handle: getService},
	{method: http.MethodPost, pattern: "/relay/services/{service}/reset", handle: postReset},
	{method: http.MethodPost, pattern: "/relay/services/{service}/hold", handle: postHold},
	{method: http.MethodPost, pattern: "/relay/services/{service}/release", handle: postRelease},
	{method: http.MethodPost, pattern: "/relay/services/{service}/backends/{backend}/test", handle: postTest},
	{method: http.MethodPost, pattern: "/relay/services/{service}/backends/{backend}/drain", handle: postDrain},
	{method: http.MethodPost, pattern: "/relay/services/{service}/backends/{backend}/resume", handle: postResume},
	{method: http.MethodPost, pattern: "/relay/services/{service}/backends/{backend}/drill", handle: postDrill, get: getDrill},
	{method: http.MethodPost, pattern: "/relay/services/{service}/backends/{backend}/drill/stop", handle: postDrillStop},
	{method: http.MethodPost, pattern: "/relay/test", handle: postTestAddress},
	{method: http.MethodGet, pattern: "/relay/health", handle: getHealth},
	{method: http.MethodGet, pattern: "/relay/fleet", handle: getFleet},
	{method: http.MethodGet, pattern: "/relay/explain", handle: getExplanation},
	{method: http.MethodPost, pattern: "/relay/upgrade", handle: postUpgrade},
	{method: http.MethodGet, pattern: "/relay/dns", handle: getDNS},
	{method: http.MethodPost, pattern: "/relay/dns/flush", handle: postFlush},
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
	if replaced.Load() { // Caddy closes its admin endpoint later; the other process has the same address
		return apiErrorf(http.StatusServiceUnavailable, "this process was replaced by another one: repeat the request")
	}
	handle := e.handle
	switch get := r.Method == http.MethodGet || r.Method == http.MethodHead; {
	case get && e.get != nil:
		handle = e.get
	case r.Method != e.method && !(get && e.method == http.MethodGet):
		w.Header().Set("Allow", e.allowed())
		return apiErrorf(http.StatusMethodNotAllowed, "method %s not allowed, use %s", r.Method, e.method)
	}
	response, err := handle(r)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	if h, ok := response.(api.Health); ok {
		w.WriteHeader(h.Status())
	}
	return json.NewEncoder(w).Encode(response)
}

// allowed returns the methods of an endpoint, for the header Allow.
func (e endpoint) allowed() string {
	get := http.MethodGet + ", " + http.MethodHead
	switch {
	case e.method == http.MethodGet:
		return get
	case e.get != nil:
		return e.method + ", " + get
	default:
		return e.method
	}
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
	if meant := caddyfile.Nearest(name, known); meant != "" {
		return apiErrorf(http.StatusNotFound, "unknown %s %q; did you mean %q? (have %s)", what, name, meant, strings.Join(known, ", "))
	}
	return apiErrorf(http.StatusNotFound, "unknown %s %q (have %s)", what, name, strings.Join(known, ", "))
}

// requester returns who sent a request, for the log and the journal: the operator
// of the live page, or the client's address.
func requester(r *http.Request) string {
	if operator := page.OperatorOf(r.Context()); operator != "" {
		return operator
	}
	if r.RemoteAddr == "" || r.RemoteAddr == "@" {
		return "unix socket"
	}
	return r.RemoteAddr
}

// logOperation logs a change that an operator made.
func logOperation(r *http.Request, action string, fields ...zap.Field) {
	fields = append([]zap.Field{zap.String("action", action), zap.String("remote", requester(r))}, fields...)
	if page.OperatorOf(r.Context()) != "" {
		processLog().Info("changed through the page", fields...)
		return
	}
	processLog().Info("changed through the admin API", fields...)
}

// Interface guards.
var (
	_ caddy.AdminRouter  = (*Admin)(nil)
	_ caddy.AdminHandler = endpoint{}
)
