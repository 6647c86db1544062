package command

import (
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/async-relay/caddy-relay/module/api"
)

// completionTimeout bounds how long the shell waits for the admin API.
const completionTimeout = time.Second

// completeNames completes the arguments of a command by what the running Caddy has:
// a service, one of its backends, and then one of the words. It offers nothing if the
// admin API does not answer.
func completeNames(maxArgs int, words ...string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		const names = cobra.ShellCompDirectiveNoFileComp
		switch {
		case len(args) >= maxArgs:
			return nil, names
		case len(args) == 2:
			return words, names
		}
		var services []api.Service
		fetch(cmd, "/relay/services", &services)
		var found []string
		for _, s := range services {
			if len(args) == 0 {
				found = append(found, s.Name)
			} else if s.Name == args[0] {
				for _, b := range s.Backends {
					found = append(found, b.Address)
				}
			}
		}
		return slices.Compact(found), names
	}
}

// completeHosts completes a name of the DNS cache.
func completeHosts(cmd *cobra.Command, args []string, _ string) (found []string, _ cobra.ShellCompDirective) {
	if len(args) == 0 {
		var entries []api.DNSEntry
		fetch(cmd, "/relay/dns", &entries)
		for _, e := range entries {
			found = append(found, e.Host)
		}
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

// fetch decodes a response of the admin API. Errors and a response that is late are
// ignored: the shell has no room for them.
func fetch[T any](cmd *cobra.Command, path string, response *T) {
	c, err := newClient(cmd)
	if err != nil {
		return
	}
	fetched := make(chan T, 1)
	go func() { // ends with the process at the latest, which exits after the completion
		var v T
		if _, err := c.request("GET", path, nil, &v); err == nil {
			fetched <- v
		}
		close(fetched)
	}()
	select {
	case *response = <-fetched:
	case <-time.After(completionTimeout):
	}
}
