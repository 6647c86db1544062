package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/async-relay/caddy-relay/caddyfile"
)

// plan is what a config has to do with relays.
type plan struct {
	listen []string // addresses of layer4 servers that have a relay, in Caddy's notation
	relays []relay
}

// relay is one relay of a config.
type relay struct {
	options  caddyfile.Options
	networks []string // "tcp" and "udp", as far as they are known
	check    string   // the health check in words, without the values of placeholders; empty: none
}

// checkConfig finds the config and checks it like `caddy validate`.
func (e *examination) checkConfig() {
	running := e.runningConfig()
	if running != nil {
		e.running, _ = planOf(running)
	}
	file := e.File
	if file == "" && running != nil {
		e.plan = e.running
		e.ok("config", "the running Caddy at %s: %s", e.Admin, e.plan)
		return
	}
	if file == "" {
		if _, err := os.Stat("Caddyfile"); err != nil {
			if len(e.Targets) == 0 {
				e.warn("config", "give one with --config, or start Caddy", "none: no --config, no Caddy at %s, no Caddyfile here", e.Admin)
			}
			return
		}
		file = "Caddyfile"
	}
	text, err := e.adapt(file)
	var config map[string]any
	if err == nil {
		err = json.Unmarshal(text, &config)
	}
	if err == nil {
		e.plan, err = planOf(config)
	}
	if err == nil {
		err = validate(config)
	}
	if err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			e.fail("config", "", "%s: %s", file, line)
		}
		return
	}
	e.ok("config", "%s: %s", file, e.plan)
}

// String summarizes the plan.
func (p plan) String() string {
	return fmt.Sprintf("%s, %s", count(len(p.relays), "relay"), count(len(p.listen), "listener"))
}

// count returns a number with a noun.
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// adapt returns the JSON of a config file. Warnings of the adapter become checks.
func (e *examination) adapt(file string) ([]byte, error) {
	body, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	name := e.Adapter
	if name == "" {
		switch filepath.Ext(file) {
		case ".json":
			return body, nil
		case ".yaml", ".yml":
			name = "async-relay"
		default:
			name = "caddyfile"
		}
	}
	adapter := caddyconfig.GetAdapter(name)
	if adapter == nil {
		return nil, fmt.Errorf("unknown config adapter %q", name)
	}
	text, warnings, err := adapter.Adapt(body, map[string]any{"filename": file})
	for _, w := range warnings {
		e.warn("config", "", "%s", w)
	}
	return text, err
}

// validate provisions a config without starting it, as `caddy validate` does. It
// opens none of its logs and writes none.
func validate(config map[string]any) error {
	silent := make(map[string]any, len(config))
	for key, value := range config {
		silent[key] = value
	}
	silent["logging"] = map[string]any{"logs": map[string]any{"default": map[string]any{"level": "PANIC"}}}
	text, err := json.Marshal(silent)
	if err != nil {
		return err
	}
	var whole *caddy.Config
	if err := caddy.StrictUnmarshalJSON(text, &whole); err != nil {
		return err
	}
	return caddy.Validate(whole)
}

// planOf finds the relays of a config. The error has a line for each relay that is
// not valid.
func planOf(config map[string]any) (p plan, err error) {
	var problems []error
	add := func(found any, networks []string) (any bool) {
		for _, raw := range relaysIn(found) {
			r, err := readRelay(raw)
			if err != nil {
				problems = append(problems, err)
				continue
			}
			r.networks = networks
			p.relays = append(p.relays, r)
			any = true
		}
		return any
	}
	apps, _ := config["apps"].(map[string]any)
	for _, name := range sortedKeys(apps) {
		if name != "layer4" {
			add(apps[name], nil) // such as a listener wrapper of the http app
			continue
		}
		layer4, _ := apps[name].(map[string]any)
		servers, _ := layer4["servers"].(map[string]any)
		for _, server := range sortedKeys(servers) {
			settings, _ := servers[server].(map[string]any)
			addresses := texts(settings["listen"])
			if add(settings["routes"], networksOf(addresses)) {
				p.listen = append(p.listen, addresses...)
			}
		}
	}
	return p, errors.Join(problems...)
}

func readRelay(raw map[string]any) (relay, error) {
	text, err := json.Marshal(raw)
	if err != nil {
		return relay{}, err
	}
	var config caddyfile.Config
	if err := json.Unmarshal(text, &config); err != nil {
		return relay{}, fmt.Errorf("relay: %w", err)
	}
	check := config.HealthCheck.Describe()
	if config, err = config.Resolved(caddy.NewReplacer()); err != nil {
		return relay{}, err
	}
	return relay{options: config.Options(), check: check}, config.Validate()
}

// relaysIn returns the relay handlers in a part of a config, at any depth.
func relaysIn(part any) (found []map[string]any) {
	switch part := part.(type) {
	case []any:
		for _, element := range part {
			found = append(found, relaysIn(element)...)
		}
	case map[string]any:
		if part["handler"] == "relay" {
			return []map[string]any{part}
		}
		for _, key := range sortedKeys(part) {
			found = append(found, relaysIn(part[key])...)
		}
	}
	return found
}

// networksOf returns the networks of addresses in Caddy's notation.
func networksOf(addresses []string) (networks []string) {
	for _, address := range addresses {
		network, _ := splitAddress(address)
		if network != "" && !slices.Contains(networks, network) {
			networks = append(networks, network)
		}
	}
	return networks
}

// splitAddress returns the network of an address in Caddy's notation, "tcp", "udp" or
// "" for others, and the address without it.
func splitAddress(address string) (network, rest string) {
	network, rest, found := strings.Cut(address, "/")
	if !found {
		network, rest = "tcp", address
	}
	switch network = strings.TrimPrefix(strings.ToLower(network), "relay+"); network {
	case "tcp", "tcp4", "tcp6":
		return "tcp", rest
	case "udp", "udp4", "udp6":
		return "udp", rest
	}
	return "", rest
}

func texts(list any) (all []string) {
	elements, _ := list.([]any)
	for _, element := range elements {
		if text, ok := element.(string); ok {
			all = append(all, text)
		}
	}
	return all
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
