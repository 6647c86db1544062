// Package module integrates the relay with Caddy: the handler
// layer4.handlers.relay, the app relay behind it, the config adapter
// async-relay, the admin API, the commands relay and async-relay, and the state
// that is kept across reloads. Package handler moves the bytes.
//
// The package promises no API: its exported names exist for Caddy and may change
// with any release. The config, the admin API, the commands and the metrics are
// documented and stable.
package module

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/async-relay/caddy-relay/module/command"
	"github.com/async-relay/caddy-relay/module/page"
)

// This is the only init of the project. It registers everything with Caddy.
func init() {
	caddy.RegisterModule(new(Relay))
	caddy.RegisterModule(new(App))
	caddy.RegisterModule(new(adminMetrics))
	caddy.RegisterModule(new(Admin))
	caddy.RegisterModule(new(LogWriter))
	caddy.RegisterModule(new(RelayPage))
	page.RegisterDirective(func() page.Module { return newRelayPage() })
	caddy.RegisterModule(stdStream{})
	caddy.RegisterModule(HealthSite{})
	httpcaddyfile.RegisterGlobalOption("relay", parseAppOption)
	httpcaddyfile.RegisterHandlerDirective("relay_health", parseHealthSite)
	httpcaddyfile.RegisterDirectiveOrder("relay_health", httpcaddyfile.Before, "respond")
	caddyconfig.RegisterAdapter("async-relay", yamlAdapter)
	caddy.RegisterNetwork(networkTCP, listenTCP)
	caddy.RegisterNetwork(networkUDP, listenUDP)
	caddycmd.RegisterCommand(rootedRelayCommand())
	caddycmd.RegisterCommand(command.AsyncRelay(yamlFiles, processLog))
	cobra.OnInitialize(recordInvocation, openStdStreams, receiveSockets, upgradeOnSignal) // run before the command that was called
	caddy.OnExit(shutDown)
}

// rootedRelayCommand returns the command `caddy relay`, which sets rootCommand.
func rootedRelayCommand() caddycmd.Command {
	relay := command.Relay(testOffline)
	setUp := relay.CobraFunc
	relay.CobraFunc = func(cmd *cobra.Command) {
		setUp(cmd)
		rootCommand = cmd.Root // the parent is known only later
	}
	return relay
}
