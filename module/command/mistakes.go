package command

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/async-relay/caddy-relay/caddyfile"
)

// knownVerb rejects an argument of a command that has only subcommands, and names
// the nearest one.
func knownVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var verbs []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			verbs = append(verbs, c.Name())
		}
	}
	return fmt.Errorf("unknown command %q for %q%s", args[0], cmd.CommandPath(), didYouMean(args[0], "", verbs, "; "+cmd.CommandPath()+" --help lists all"))
}

// explainFlag adds the nearest flag to the error for an unknown one.
func explainFlag(cmd *cobra.Command, err error) error {
	given, isUnknown := strings.CutPrefix(err.Error(), "unknown flag: --")
	if !isUnknown {
		return err
	}
	var flags []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { flags = append(flags, f.Name) })
	return fmt.Errorf("%w%s", err, didYouMean(given, "--", flags, ""))
}

// didYouMean returns the question for the known word that is nearest to a word, or
// otherwise if none is near.
func didYouMean(word, prefix string, known []string, otherwise string) string {
	if meant := caddyfile.Nearest(word, known); meant != "" {
		return fmt.Sprintf("; did you mean %q?", prefix+meant)
	}
	return otherwise
}

// oneConfigFlag rejects arguments of `caddy async-relay`: the file is the value of a
// flag.
func oneConfigFlag(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("unexpected argument %q: the configuration file is given with -c, as in %s -c %[1]s", args[0], cmd.CommandPath())
}
