package page

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Module is the Caddy module that embeds a [Handler].
type Module interface {
	caddyhttp.MiddlewareHandler
	caddyfile.Unmarshaler
}

// RegisterDirective registers the Caddyfile directive relay_page, with what makes a
// module. It is ordered like metrics: after the authentication and after the
// directives that only change or route requests, before those that serve any path.
func RegisterDirective(newModule func() Module) {
	httpcaddyfile.RegisterHandlerDirective("relay_page", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		p := newModule()
		return p, p.UnmarshalCaddyfile(h.Dispenser)
	})
	httpcaddyfile.RegisterDirectiveOrder("relay_page", httpcaddyfile.After, "metrics")
}
