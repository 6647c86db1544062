package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/async-relay/caddy-relay/module/api"
)

// drillPoll is the interval at which a waiting command reads the state of its drill.
const drillPoll = 500 * time.Millisecond

// drillCommand returns the command `caddy relay drill`. It waits for the end of the
// drill and prints its receipt.
func drillCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drill <service> <backend> [refuse|silent|reset|slow]",
		Short: "Injects a fault into new relays to a backend, and prints what came of it",
		Long: `
Makes a backend seem to fail, for new relays of one service: it refuses
connections, answers nothing (silent), resets each connection, or takes a second
longer to connect to (slow). The drill ends by itself, by --stop or with the
process, and changes nothing on the backend. The command waits for its end and
prints the strikes, the clients that moved to another backend, the slowest of
them, and the clients that were refused. Ending the command ends the drill.`,
		Args:              cobra.RangeArgs(2, 3),
		ValidArgsFunction: completeNames(3, "refuse", "silent", "reset", "slow"),
	}
	lasts := cmd.Flags().String("for", "60s", "How long the drill lasts, at most 1h")
	force := cmd.Flags().Bool("force", false, "Drill the backend even if no other backend is available")
	stop := cmd.Flags().Bool("stop", false, "End the drill of the backend and print its receipt")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := newClient(cmd)
		switch {
		case err != nil:
			return err
		case *stop:
			return c.endDrill(args)
		case len(args) < 3:
			return errors.New("missing the fault: refuse, silent, reset or slow")
		}
		return c.drill(cmd, args, api.DrillRequest{Fault: args[2], For: *lasts, Force: *force})
	}
	return cmd
}

// drill starts a drill, and waits for its end.
func (c client) drill(cmd *cobra.Command, args []string, request api.DrillRequest) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	var d api.Drill
	if _, err := c.request(http.MethodPost, backendPath(args, "drill"), body, &d); err != nil {
		return err
	}
	if !c.json {
		fmt.Fprintf(cmd.ErrOrStderr(), "drill: %s of %s seems to %s until %s; interrupt this command to end it\n", d.Backend, d.Service, drilled(d.Fault), d.Ends.Local().Format(time.TimeOnly))
	}
	ctx, cancel := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	for d.Running {
		select {
		case <-time.After(min(drillPoll, max(time.Until(d.Ends), time.Millisecond))):
		case <-ctx.Done():
			return c.endDrill(args)
		}
		if _, err := c.request(http.MethodGet, backendPath(args, "drill"), nil, &d); err != nil {
			return err
		}
	}
	return c.show(http.MethodGet, backendPath(args, "drill"), &d, func(p *printer) { p.drill(d) })
}

func (c client) endDrill(args []string) error {
	var d api.Drill
	return c.show(http.MethodPost, backendPath(args, "drill/stop"), &d, func(p *printer) { p.drill(d) })
}

// drilled returns what a backend seems to do, as a verb.
func drilled(fault string) string {
	switch fault {
	case "silent", "slow":
		return "be " + fault
	default:
		return fault
	}
}

// drill writes the receipt of a drill.
func (p *printer) drill(d api.Drill) {
	p.line("%s of %s, %s for %s", d.Backend, d.Service, d.Fault, formatSpan(d.Ends.Sub(d.Began)))
	p.row("strikes", d.Strikes)
	p.row("clients moved", d.Moved)
	if d.Moved > 0 {
		p.row("slowest of them", formatMilliseconds(d.Slowest))
	}
	p.row("clients reset", d.Reset)
	p.row("clients refused", d.Refused)
}
