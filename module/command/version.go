package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/async-relay/caddy-relay/internal/version"
)

// versionCommand returns the command `caddy relay version`. It needs no running
// Caddy.
func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Prints the versions of the relay, Caddy and caddy-l4 in this program",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), version.Get())
			return err
		},
	}
}
