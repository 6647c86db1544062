package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/spf13/cobra"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/caddyfile/asyncrelay"
)

// convertCommand returns the command `caddy relay convert`.
func convertCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "convert <config.yaml>",
		Short: "Converts a configuration file of async-relay to a Caddyfile or to JSON",
		Long: `
Prints a Caddyfile with the settings and the comments of a YAML file of
async-relay, or the JSON that Caddy runs. "-" reads the standard input. Problems
of the file are reported together, and settings that have no effect as warnings.`,
		Example: `  caddy relay convert config.yaml > Caddyfile
  caddy relay convert config.yaml --to json`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
		},
	}
	to := cmd.Flags().String("to", "caddyfile", "The format of the output: caddyfile or json")
	_ = cmd.RegisterFlagCompletionFunc("to", cobra.FixedCompletions([]string{"caddyfile", "json"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		body, err := readInput(cmd, args[0])
		if err != nil {
			return err
		}
		adapter := new(asyncrelay.Adapter) // hashes each password once
		adapted, warnings, err := adaptMain(adapter, body, args[0])
		if err != nil {
			return fmt.Errorf("%s:\n%w", args[0], err)
		}
		var text []byte
		switch *to {
		case "json":
			var indented bytes.Buffer
			err = json.Indent(&indented, append(adapted, '\n'), "", "\t")
			text = indented.Bytes()
		case "caddyfile":
			var more []caddyconfig.Warning
			text, more, err = toCaddyfile(adapter, body, adapted, args[0])
			warnings = append(warnings, more...)
		default:
			err = fmt.Errorf("--to: must be caddyfile or json, got %q", *to)
		}
		if err != nil {
			return err
		}
		for _, w := range warnings {
			fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
		}
		_, err = cmd.OutOrStdout().Write(text)
		return err
	}
	return cmd
}

// schemaCommand returns the command `caddy relay schema`.
func schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Prints the JSON schema of configuration files of async-relay",
		Long: `
Prints the JSON schema of YAML files of async-relay. An editor with the YAML
language server uses it if the file begins with:

  # yaml-language-server: $schema=async-relay.schema.json`,
		Example: "  caddy relay schema > async-relay.schema.json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(asyncrelay.Schema())
			return err
		},
	}
}

// adaptMain converts a file to the JSON that Caddy runs, without the edits of the
// page. A warning mentions them.
func adaptMain(adapter *asyncrelay.Adapter, body []byte, file string) (config []byte, warnings []caddyconfig.Warning, err error) {
	if file == "-" {
		return adapter.Adapt(body, map[string]any{"filename": file})
	}
	source, err := adapter.ReadSource(file, body)
	if err != nil {
		return nil, nil, err
	}
	var edited []caddyconfig.Warning
	if source.Edited {
		edited = append(edited, caddyconfig.Warning{File: source.Runtime, Message: "edits made in the page are left out; convert this file to have them"})
		if source, err = asyncrelay.MainSource(file, body); err != nil {
			return nil, nil, err
		}
	}
	config, warnings, err = adapter.AdaptSource(source)
	return config, append(edited, warnings...), err
}

func readInput(cmd *cobra.Command, file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(cmd.InOrStdin())
	}
	body, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the configuration file: %w", err)
	}
	return body, nil
}

// toCaddyfile converts a YAML file. It returns an error unless the Caddyfile has the
// same meaning as the file, which adapted has as JSON.
// warnings are those that the adapter does not have.
func toCaddyfile(adapter *asyncrelay.Adapter, body, adapted []byte, file string) (converted []byte, warnings []caddyconfig.Warning, err error) {
	const otherwise = "%s: %w; --to json works"
	text, warnings, err := adapter.Convert(body, file)
	warnings = slices.DeleteFunc(warnings, func(w caddyconfig.Warning) bool {
		return w.Directive != "web_ui" || !strings.HasPrefix(w.Message, "the page of a Caddyfile")
	})
	if err != nil {
		return nil, nil, fmt.Errorf(otherwise, file, err)
	}
	back, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err == nil {
		err = sameServers(adapted, back)
	}
	if err != nil {
		return nil, nil, fmt.Errorf(otherwise, file, err)
	}
	return []byte(text), warnings, nil
}

// relayServers is the part of Caddy's JSON that both formats have.
type relayServers struct {
	Apps struct {
		Layer4 struct {
			Servers map[string]struct {
				Listen []string
				Routes []struct{ Handle []caddyfile.Config }
			}
		}
	}
}

// sameServers compares the layer4 servers of two configs, whatever their names are
// and however their durations are written.
func sameServers(a, b []byte) error {
	left, err := serversByAddress(a)
	if err != nil {
		return err
	}
	right, err := serversByAddress(b)
	if err != nil {
		return err
	}
	for address, config := range left {
		if right[address] != config {
			return fmt.Errorf("the Caddyfile would have other settings at %s", address)
		}
	}
	if len(left) != len(right) {
		return fmt.Errorf("the Caddyfile would have %d servers instead of %d", len(right), len(left))
	}
	return nil
}

// serversByAddress returns the relay of each server as JSON, by its addresses.
func serversByAddress(config []byte) (map[string]string, error) {
	var all relayServers
	if err := json.Unmarshal(config, &all); err != nil {
		return nil, err
	}
	byAddress := make(map[string]string)
	for _, server := range all.Apps.Layer4.Servers {
		text, err := json.Marshal(server.Routes)
		if err != nil {
			return nil, err
		}
		byAddress[fmt.Sprint(server.Listen)] = string(text)
	}
	return byAddress, nil
}
