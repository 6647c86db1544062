package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/async-relay/caddy-relay/module/doctor"
)

// doctorCommand returns the command `caddy relay doctor`.
func doctorCommand(test doctor.Tester) *cobra.Command {
	var opts doctor.Options
	cmd := &cobra.Command{
		Use:   "doctor [--config <file>] [<host:port>...]",
		Short: "Checks a config and this machine, and says what to do",
		Long: `
Checks a config, the ports it listens on, descriptors, kernel parameters, the
names and backends of its relays, the time to stop, and the clock. Without
--config it checks what the running Caddy has, or the Caddyfile in the working
directory. Arguments are backends to test in addition.

Each check prints a line: ok, warn or fail, what was found and what to do. The
exit status is 1 if a check fails. Run it as the user of Caddy, for its rights
and limits, and on its machine.`,
		Example: `  caddy relay doctor
  caddy relay doctor --config Caddyfile
  caddy relay doctor --config config.yaml db1.example:5432 --json`,
	}
	cmd.Flags().StringVar(&opts.File, "config", "", "The config to check")
	cmd.Flags().StringVar(&opts.Adapter, "adapter", "", "Its adapter (default: async-relay for .yaml, none for .json, else caddyfile)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := newClient(cmd)
		if err != nil {
			return err
		}
		opts.Targets, opts.Admin, opts.Test = args, c.address, test
		if answers(c.address) {
			opts.Request = func(method, path string, response any) error {
				_, err := c.request(method, path, nil, response)
				return err
			}
		}
		r := doctor.Run(cmd.Context(), opts)
		if err := c.printReport(r); err != nil {
			return err
		}
		if n := r.Failed(); n > 0 {
			cmd.SilenceUsage = true
			return fmt.Errorf("%d of %d checks failed", n, len(r.Checks))
		}
		return nil
	}
	return cmd
}

// printReport prints a report with one line for each check.
func (c client) printReport(r doctor.Report) error {
	if c.json {
		text, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.out, string(text))
		return err
	}
	var problems []error
	for _, check := range r.Checks {
		line := fmt.Sprintf("%-4s  %-11s  %s", check.Status, check.Check, check.Message)
		if check.Advice != "" {
			line += "; " + check.Advice
		}
		_, err := fmt.Fprintln(c.out, strings.ReplaceAll(line, "\n", " "))
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}
