package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/spf13/cobra"

	"github.com/async-relay/caddy-relay/caddyfile"
)

// runFlags are the flags of `caddy relay run` that are not options of a relay.
type runFlags struct {
	listen       []string
	udp, both    bool
	print, debug bool
	admin        string // --address as given; empty: the default
	options      []*optionFlag
}

// runCommand returns the command `caddy relay run`.
func runCommand() *cobra.Command {
	f := &runFlags{}
	cmd := &cobra.Command{
		Use:   "run --listen <address> --to <host:port>[,<host:port>...]",
		Short: "Runs one relay from its command line",
		Long: `
Runs a relay until a signal ends it. Every option of a relay is a flag.
--print shows the Caddyfile that the flags stand for, and runs nothing.

An option whose value may be absent takes it after "=", as in --failback=move.
The elements of a list are separated by commas. --health-check-http and
--event-hook take several words in one argument, quoted as in a Caddyfile.

The admin API listens on --address, or on its default. The config is not saved.`,
		Example: `  caddy relay run --listen :8080 --to a.example:80,b.example:80
  caddy relay run --listen :53 --both --to 9.9.9.9:53,1.1.1.1:53 --udp-reply-timeout 2s
  caddy relay run --listen :5432 --to db1:5432,db2:5432 --health-check=5s --failback --print`,
		Args: func(_ *cobra.Command, args []string) error { return f.checkPositionals(args) },
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringSliceVar(&f.listen, "listen", nil, "The address to listen on, such as :8080 or 127.0.0.1:8080")
	flags.BoolVar(&f.udp, "udp", false, "Relay UDP (default: TCP)")
	flags.BoolVar(&f.both, "both", false, "Relay TCP and UDP")
	flags.BoolVar(&f.print, "print", false, "Print the Caddyfile instead of running it")
	flags.BoolVar(&f.debug, "debug", false, "Log at level DEBUG, which includes each connection")
	f.options = addOptionFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		f.admin, _ = cmd.Flags().GetString("address")
		return f.run(cmd)
	}
	return cmd
}

// checkPositionals rejects arguments. They are often the value of a flag that takes
// it after "=" only.
func (f *runFlags) checkPositionals(args []string) error {
	if len(args) == 0 {
		return nil
	}
	for _, o := range f.options {
		if o.info.Bare != "" && len(o.values) > 0 && o.values[0] == o.info.Bare {
			return fmt.Errorf("unexpected argument %q: if it is the value of --%s, write --%[2]s=%[1]s", args[0], o.name)
		}
	}
	return fmt.Errorf("unexpected argument %q: backends are given with --to", args[0])
}

// run runs the relay. It returns only if that fails.
func (f *runFlags) run(cmd *cobra.Command) error {
	text, err := f.caddyfile()
	if err != nil {
		return err
	}
	if f.print {
		_, err := fmt.Fprint(cmd.OutOrStdout(), text)
		return err
	}
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "the flags"})
	if err != nil {
		return err
	}
	address, err := adminAddress(f.admin)
	if err != nil {
		return err
	}
	if !replaces(cmd.Context()) && answers(address) {
		return fmt.Errorf("another Caddy has its admin API at %s: give this one an address of its own, such as --address localhost:2020", address)
	}
	caddy.TrapSignals()
	limitMemory()
	if err := caddy.Load(config, true); err != nil {
		return err
	}
	select {}
}

// caddyfile returns the Caddyfile that the flags stand for.
func (f *runFlags) caddyfile() (string, error) {
	addresses, listenErr := f.addresses()
	config, err := configOf(f.options)
	if err == nil && len(config.Backends) == 0 {
		err = errors.New("--to: missing; give at least one backend, as host:port")
	}
	if err := errors.Join(listenErr, err); err != nil {
		return "", err
	}
	resolved, err := config.Resolved(caddy.NewReplacer())
	if err == nil {
		err = resolved.Validate()
	}
	if err != nil {
		return "", err
	}

	relay := caddyfile.Directive{Name: "relay", Args: config.Backends}
	config.Backends = nil
	if options := config.Directives(); len(options) > 0 {
		relay.Block = options
	}
	var global []caddyfile.Directive
	if f.debug {
		global = append(global, caddyfile.Directive{Name: "debug"})
	}
	if f.admin != "" {
		address, err := adminAddress(f.admin)
		if err != nil {
			return "", err
		}
		global = append(global, caddyfile.Directive{Name: "admin", Args: []string{address}})
	}
	global = append(global,
		caddyfile.Directive{Name: "persist_config", Args: []string{"off"}},
		caddyfile.Directive{Name: "layer4", Block: []caddyfile.Directive{{
			Name: addresses[0], Args: addresses[1:], Block: []caddyfile.Directive{{Name: "route", Block: []caddyfile.Directive{relay}}},
		}}})
	var b strings.Builder
	err = caddyfile.WriteCaddyfile(&b, 0, []caddyfile.Directive{{Block: global}})
	return b.String(), err
}

// addresses returns the addresses of the layer4 server.
func (f *runFlags) addresses() (addresses []string, err error) {
	networks := []string{"relay+tcp/"}
	switch {
	case f.both:
		networks = append(networks, "relay+udp/")
	case f.udp:
		networks = []string{"relay+udp/"}
	}
	if len(f.listen) == 0 {
		return nil, errors.New("--listen: missing; give the address to listen on, such as :8080")
	}
	for _, given := range f.listen {
		address := given
		if strings.Trim(given, "0123456789") == "" {
			address = ":" + given
		}
		if strings.Contains(address, "/") {
			return nil, fmt.Errorf("--listen: must be an address without a network, such as :8080, got %q; --udp and --both choose the network", given)
		}
		parsed, err := caddy.ParseNetworkAddress("tcp/" + address)
		if err != nil || parsed.StartPort == 0 {
			return nil, fmt.Errorf("--listen: must be an address with a port, such as :8080 or 127.0.0.1:8080, got %q", given)
		}
		for _, network := range networks {
			addresses = append(addresses, network+address)
		}
	}
	return addresses, nil
}

// answerTimeout bounds the wait for a connection to an admin API.
const answerTimeout = time.Second

// answers reports whether a program accepts connections at an address of an admin
// API.
func answers(address string) bool {
	at, err := caddy.ParseNetworkAddress(address)
	if err != nil {
		return false
	}
	conn, err := net.DialTimeout(dialled(at), at.JoinHostPort(0), answerTimeout)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// dialled returns the network for net.Dial.
func dialled(at caddy.NetworkAddress) string {
	if at.Network == "" {
		return "tcp"
	}
	return at.Network
}

// replacesKey is the key of a context of a command whose process replaces another one.
type replacesKey struct{}

// WithReplaces returns a context for a command whose process replaces another one. That
// one still has its admin API when the command begins.
func WithReplaces(ctx context.Context) context.Context {
	return context.WithValue(ctx, replacesKey{}, true)
}

func replaces(ctx context.Context) bool { return ctx.Value(replacesKey{}) != nil }
