package command

import (
	"fmt"
	"net/http"
	"net/url"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/async-relay/caddy-relay/module/api"
	"github.com/async-relay/caddy-relay/module/doctor"
)

// Relay returns the command `caddy relay`. test tests a backend of a relay that does
// not run in this process.
func Relay(test doctor.Tester) caddycmd.Command {
	return caddycmd.Command{
		Name:  "relay",
		Usage: "<command>",
		Short: "Runs a relay, and shows and operates those of a running Caddy",
		Long: `
Shows the services of a running Caddy and why the queue of each is in its
current state, and operates on them. These commands use Caddy's admin API. With
--json they print its response unchanged. In addition, run starts a relay from
its command line, convert turns a file of async-relay into a Caddyfile, and
doctor checks a config and the machine.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.PersistentFlags().String("address", "", "The address of the admin API, such as localhost:2019, http://10.0.0.1:2019 or unix//run/caddy.sock (default: $CADDY_ADMIN, or localhost:2019)")
			cmd.PersistentFlags().Bool("json", false, "Print the response as JSON")
			for _, s := range subcommands {
				cmd.AddCommand(s.command())
			}
			cmd.AddCommand(drillCommand(), runCommand(), convertCommand(), schemaCommand(), doctorCommand(test), versionCommand())
			// Without Args and RunE, an unknown subcommand prints the help and succeeds.
			cmd.Args = knownVerb
			cmd.SetFlagErrorFunc(explainFlag)
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		},
	}
}

// subcommand is a subcommand of `caddy relay`. It makes one request and prints
// the response.
type subcommand struct {
	use, short       string
	minArgs, maxArgs int
	run              func(c client, args []string) error
	flags            []queryFlag
}

// queryFlag is a flag of a subcommand that becomes a query parameter of its
// request. A flag without a value is not sent.
type queryFlag struct{ name, parameter, usage string }

var subcommands = []subcommand{
	{"status [service]", "Shows the queue of one service, or of all", 0, 1, runStatus, nil},
	{"explain <service>", "Shows why the queue of a service is in its current state", 1, 1, runExplain, nil},
	{"test <service> <backend>", "Tests all addresses of a backend now, with the probe of its health check", 2, 2, runTest, nil},
	{"drain <service> <backend>", "Stops sending new clients to a backend", 2, 2, runSetDrained("drain"), []queryFlag{{"cut-after", "cut_after", "End the TCP relays of the backend that are left after this long, and move its UDP sessions (default: never)"}}},
	{"resume <service> <backend>", "Sends new clients to a drained backend again", 2, 2, runSetDrained("resume"), nil},
	{"hold <service>", "Makes new clients wait", 1, 1, runHold("hold"), []queryFlag{{"for", "for", "How long clients wait unless they are released, at most 1h (default: 30s)"}}},
	{"release <service>", "Ends a hold", 1, 1, runHold("release"), nil},
	{"reset <service>", "Restores the configured order and clears all strikes", 1, 1, runReset, nil},
	{"fleet", "Shows the other nodes of the fleet, and what they have demoted", 0, 0, runFleet, nil},
	{"upgrade", "Replaces the running process by a new one of the installed program, without losing a client", 0, 0, runUpgrade, nil},
	{"health [service]", "Reports whether clients can be sent to all services, or to one; the exit status is 1 if not", 0, 1, runHealth, nil},
	{"dns", "Shows the DNS cache", 0, 0, runDNS, nil},
	{"flush [host]", "Flushes one name, or all names, from the DNS cache", 0, 1, runFlush, nil},
}

func (s subcommand) command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   s.use,
		Short: s.short,
		Args:  cobra.RangeArgs(s.minArgs, s.maxArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := newClient(cmd)
			if err != nil {
				return err
			}
			for _, f := range s.flags {
				if value, _ := cmd.Flags().GetString(f.name); value != "" {
					c.query.Set(f.parameter, value)
				}
			}
			return s.run(c, args)
		},
	}
	cmd.ValidArgsFunction = completeNames(s.maxArgs)
	if cmd.Name() == "flush" {
		cmd.ValidArgsFunction = completeHosts
	}
	for _, f := range s.flags {
		cmd.Flags().String(f.name, "", f.usage)
	}
	return cmd
}

func runStatus(c client, args []string) error {
	if len(args) == 1 {
		var one api.Service
		return c.show(http.MethodGet, servicePath(args[0]), &one, func(p *printer) { p.services(one) })
	}
	var all []api.Service
	return c.show(http.MethodGet, "/relay/services", &all, func(p *printer) { p.services(all...) })
}

func runExplain(c client, args []string) error {
	var e api.Explanation
	return c.show(http.MethodGet, "/relay/explain?service="+url.QueryEscape(args[0]), &e, func(p *printer) { p.explanation(e) })
}

// runHealth returns an error with the reasons if clients must not be sent.
func runHealth(c client, args []string) error {
	for _, service := range args {
		c.query.Set("service", service)
	}
	var h api.Health
	return c.show(http.MethodGet, "/relay/health", &h, func(p *printer) { p.line("ok") })
}

// runTest returns an error if the backend fails the test, so that scripts can
// use the exit status.
func runTest(c client, args []string) error {
	var t api.Test
	err := c.show(http.MethodPost, backendPath(args, "test"), &t, func(p *printer) { p.test(t) })
	if err == nil && !t.OK {
		err = fmt.Errorf("backend %s failed the test", t.Backend)
	}
	return err
}

func runSetDrained(action string) func(client, []string) error {
	return func(c client, args []string) error {
		var b api.Backend
		return c.show(http.MethodPost, backendPath(args, action), &b, func(p *printer) {
			p.line("%s: %s, %s", b.Address, b.State, b.Active)
		})
	}
}

func runReset(c client, args []string) error {
	var s api.Service
	return c.show(http.MethodPost, servicePath(args[0])+"/reset", &s, func(p *printer) { p.services(s) })
}

func runHold(action string) func(client, []string) error {
	return func(c client, args []string) error {
		var s api.Service
		return c.show(http.MethodPost, servicePath(args[0])+"/"+action, &s, func(p *printer) { p.hold(s) })
	}
}

func runFleet(c client, _ []string) error {
	var f api.Fleet
	return c.show(http.MethodGet, "/relay/fleet", &f, func(p *printer) { p.fleet(f) })
}

func runUpgrade(c client, _ []string) error {
	var u api.Upgrade
	return c.show(http.MethodPost, "/relay/upgrade", &u, func(p *printer) { p.upgrade(u) })
}

func runDNS(c client, _ []string) error {
	var entries []api.DNSEntry
	return c.show(http.MethodGet, "/relay/dns", &entries, func(p *printer) { p.dns(entries) })
}

// runFlush returns an error if the name is in no cache, so that a misspelled one is
// noticed.
func runFlush(c client, args []string) error {
	path := "/relay/dns/flush"
	if len(args) == 1 {
		path += "?host=" + url.QueryEscape(args[0])
	}
	var f api.Flush
	err := c.show(http.MethodPost, path, &f, func(p *printer) {
		if f.Known == 0 && len(args) == 1 {
			return
		}
		names := "names"
		if f.Flushed == 1 {
			names = "name"
		}
		p.line("flushed %d %s", f.Flushed, names)
	})
	if err == nil && f.Known == 0 && len(args) == 1 {
		err = fmt.Errorf("%s: unknown, nothing flushed", args[0])
	}
	return err
}
