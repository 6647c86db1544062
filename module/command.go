package module

import (
	"fmt"
	"net/http"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// relayCommand is `caddy relay`: the admin API for people.
func relayCommand() caddycmd.Command {
	return caddycmd.Command{
		Name:  "relay",
		Usage: "<command>",
		Short: "Shows and operates the relay services of a running Caddy",
		Long: `
Shows the services of a running Caddy, why the queue of each stands as it does,
and operates on them, through Caddy's admin API. With --json the API's answer
is printed as it is.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.PersistentFlags().String("address", "", "The address of the admin API, such as localhost:2019 or unix//run/caddy.sock (default: $CADDY_ADMIN, or localhost:2019)")
			cmd.PersistentFlags().Bool("json", false, "Print the answer as JSON")
			for _, v := range verbs {
				cmd.AddCommand(v.command())
			}
			// Without these a verb that there is not would be help, and no failure.
			cmd.Args = cobra.NoArgs
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		},
	}
}

// verb is a subcommand of `caddy relay`: one request, and its answer in words.
type verb struct {
	use, short string
	least      int // arguments that are needed; use names as many as there may be
	most       int
	run        func(ask asker, args []string) error
}

func (v verb) command() *cobra.Command {
	return &cobra.Command{
		Use:   v.use,
		Short: v.short,
		Args:  cobra.RangeArgs(v.least, v.most),
		RunE: func(cmd *cobra.Command, args []string) error {
			ask, err := newAsker(cmd)
			if err != nil {
				return err
			}
			return v.run(ask, args)
		},
	}
}

var verbs = []verb{
	{"status [service]", "Shows the queue of one service, or of all", 0, 1, runStatus},
	{"explain <service>", "Tells why the queue of a service stands as it does", 1, 1, runExplain},
	{"test <service> <backend>", "Dials all addresses of a backend now", 2, 2, runTest},
	{"drain <service> <backend>", "Sends nobody new to a backend", 2, 2, runSetDrained("drain")},
	{"resume <service> <backend>", "Sends new clients to a drained backend again", 2, 2, runSetDrained("resume")},
	{"reset <service>", "Brings back the configured order, without strikes", 1, 1, runReset},
	{"dns", "Shows the DNS cache", 0, 0, runDNS},
	{"flush [host]", "Has one name, or all, looked up anew at the next use", 0, 1, runFlush},
}

func runStatus(ask asker, args []string) error {
	if len(args) == 1 {
		var one serviceView
		return ask.show(http.MethodGet, "/relay/services/"+segment(args[0]), &one, func(p *printer) { p.services(one) })
	}
	var all []serviceView
	return ask.show(http.MethodGet, "/relay/services", &all, func(p *printer) { p.services(all...) })
}

func runExplain(ask asker, args []string) error {
	var e explanation
	return ask.show(http.MethodGet, "/relay/explain?service="+query(args[0]), &e, func(p *printer) { p.explanation(e) })
}

// runTest fails if the backend does, so that a script need not read.
func runTest(ask asker, args []string) error {
	var t testView
	err := ask.show(http.MethodPost, backendPath(args, "test"), &t, func(p *printer) { p.test(t) })
	if err == nil && !t.OK {
		err = fmt.Errorf("backend %s does not answer", t.Backend)
	}
	return err
}

func runSetDrained(action string) func(asker, []string) error {
	return func(ask asker, args []string) error {
		var b backendView
		return ask.show(http.MethodPost, backendPath(args, action), &b, func(p *printer) {
			p.line("%s: %s, %s", b.Address, b.State, b.Active)
		})
	}
}

func runReset(ask asker, args []string) error {
	var s serviceView
	return ask.show(http.MethodPost, "/relay/services/"+segment(args[0])+"/reset", &s, func(p *printer) { p.services(s) })
}

func runDNS(ask asker, _ []string) error {
	var names []dnsView
	return ask.show(http.MethodGet, "/relay/dns", &names, func(p *printer) { p.names(names) })
}

func runFlush(ask asker, args []string) error {
	path := "/relay/dns/flush"
	if len(args) == 1 {
		path += "?host=" + query(args[0])
	}
	var f flushView
	return ask.show(http.MethodPost, path, &f, func(p *printer) {
		p.line("names that are looked up anew at their next use: %d", f.Flushed)
	})
}
