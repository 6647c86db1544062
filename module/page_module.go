package module

import (
	"github.com/caddyserver/caddy/v2"

	"github.com/async-relay/caddy-relay/module/page"
)

// RelayPage serves the live page of the relay: every service with its queue as it
// changes, the reasons for the changes, and the operators' actions. It responds to
// all requests that reach it, so a site limits it with a matcher or with
// `handle_path`. It works below any path prefix.
//
// The page has no login of its own. Put `basic_auth`, `forward_auth` or client
// certificates in front of it, or set read_only.
type RelayPage struct {
	page.Handler
}

func newRelayPage() *RelayPage {
	return &RelayPage{page.New(pageRelays{}, pageOriginal{}, yamlFiles)}
}

// CaddyModule returns the Caddy module information.
func (*RelayPage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.relay_page",
		New: func() caddy.Module { return newRelayPage() },
	}
}
