package page

import (
	"context"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// operator returns who sent a request, for the journal and the log: the user that
// the site has authenticated, or else the client's address. The address respects
// the trusted proxies of Caddy's server.
func operator(r *http.Request) string {
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		if user, ok := repl.GetString("http.auth.user.id"); ok && user != "" {
			return user
		}
	}
	if vars, ok := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any); ok {
		if addr, ok := vars[caddyhttp.ClientIPVarKey].(string); ok && addr != "" {
			return addr
		}
	}
	return r.RemoteAddr
}

type operatorKey struct{}

// WithOperator returns a context that carries the operator of a request.
func WithOperator(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, operatorKey{}, name)
}

// OperatorOf returns the operator of a request of the page. It returns "" for
// requests that did not come through the page.
func OperatorOf(ctx context.Context) string {
	name, _ := ctx.Value(operatorKey{}).(string)
	return name
}
