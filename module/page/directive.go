package page

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// RegisterDirective registers the Caddyfile directive relay_page. It is ordered
// like metrics: after the authentication and after the directives that only change
// or route requests, before those that serve any path.
func RegisterDirective() {
	httpcaddyfile.RegisterHandlerDirective("relay_page", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		p := new(RelayPage)
		return p, p.UnmarshalCaddyfile(h.Dispenser)
	})
	httpcaddyfile.RegisterDirectiveOrder("relay_page", httpcaddyfile.After, "metrics")
}
