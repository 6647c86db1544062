package module

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// HealthSite is the HTTP handler relay_health. It answers like GET /relay/health of
// the admin API: with status 200 while the relay is ready for clients, else with 503
// and the reasons. It contacts no backend, so load balancers may ask it often.
type HealthSite struct {
	// The services to report on. Default: all services of the config.
	Services []string `json:"services,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (HealthSite) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.relay_health",
		New: func() caddy.Module { return new(HealthSite) },
	}
}

// ServeHTTP implements caddyhttp.MiddlewareHandler. It answers every request and
// calls no further handler.
func (h HealthSite) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return nil
	}
	result := health(h.Services, time.Now())
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(result.Status())
	return json.NewEncoder(w).Encode(result)
}

// UnmarshalCaddyfile implements caddyfile.Unmarshaler. Syntax:
//
//	relay_health [<services...>]
func (h *HealthSite) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the name of the directive
	h.Services = append(h.Services, d.RemainingArgs()...)
	if d.NextBlock(0) {
		return d.Errf("unknown option %q: relay_health has no block", d.Val())
	}
	return nil
}

// parseHealthSite sets up the directive relay_health.
func parseHealthSite(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	site := new(HealthSite)
	return site, site.UnmarshalCaddyfile(h.Dispenser)
}

// Interface guards.
var (
	_ caddyhttp.MiddlewareHandler = HealthSite{}
	_ caddyfile.Unmarshaler       = (*HealthSite)(nil)
)
