// Package module is the relay as Caddy sees it: the handler
// layer4.handlers.relay, the app relay behind it, the config adapter
// async-relay, the admin API and the commands relay and async-relay, and what is
// kept across reloads. How bytes move is not its concern; that is package
// handler's.
package module

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/module/command"
)

// The one place where anything is registered with Caddy.
func init() {
	caddy.RegisterModule(new(Relay))
	caddy.RegisterModule(new(App))
	caddy.RegisterModule(new(adminMetrics))
	caddy.RegisterModule(new(Admin))
	caddyconfig.RegisterAdapter("async-relay", caddyfile.Adapter{})
	caddy.RegisterNetwork(networkTCP, listenTCP)
	caddy.RegisterNetwork(networkUDP, listenUDP)
	caddycmd.RegisterCommand(command.Relay())
	caddycmd.RegisterCommand(command.AsyncRelay(processLog))
	caddy.OnExit(drain)
}
