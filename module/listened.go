package module

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/upstream"
)

// listened holds what a service listens on, as far as the servers of the layer4
// app tell. The zero value means that they tell nothing: the service may be in
// another app, or a server may have an address that is not known here.
type listened struct {
	networks []upstream.Network
	addrs    []string // as written, with their networks
	where    string   // the servers and their addresses, for messages
}

// alone reports whether the service listens on one network only, which is n.
func (l listened) alone(n upstream.Network) bool {
	return len(l.networks) == 1 && l.networks[0] == n
}

// has reports whether the service listens, or may listen, on a network.
func (l listened) has(n upstream.Network) bool {
	return len(l.networks) == 0 || slices.Contains(l.networks, n)
}

// serverRelays holds the relays in each layer4 server, by its name. Relays that
// cannot be provisioned are left out.
type serverRelays map[string][]caddyfile.Config

// findRelays returns the relays of a layer4 app. Like findDirectServers, it must be
// called when the first relay of the app is provisioned.
func findRelays(app *layer4.App) serverRelays {
	found := make(serverRelays)
	for name, server := range app.Servers {
		for _, route := range server.Routes {
			for _, raw := range route.HandlersRaw {
				found[name] = append(found[name], relayConfigs(raw)...)
			}
		}
	}
	return found
}

// findListened returns what each service of a layer4 app listens on, by the key of
// the service.
func findListened(app *layer4.App, relays serverRelays) map[string]listened {
	found := make(map[string]listened)
	unknown := make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(app.Servers)) {
		server := app.Servers[name]
		networks, known := serverNetworks(server)
		for _, config := range relays[name] {
			key, err := serviceKey(config)
			if err != nil {
				continue
			}
			l := found[key]
			for _, n := range networks {
				if !slices.Contains(l.networks, n) {
					l.networks = append(l.networks, n)
				}
			}
			for _, addr := range server.Listen {
				if !slices.Contains(l.addrs, addr) {
					l.addrs = append(l.addrs, addr)
				}
			}
			if text := fmt.Sprintf("layer4 server %q lists %s", name, strings.Join(server.Listen, ", ")); !strings.Contains(l.where, text) {
				l.where = strings.TrimPrefix(l.where+"; "+text, "; ")
			}
			found[key] = l
			unknown[key] = unknown[key] || !known
		}
	}
	maps.DeleteFunc(found, func(key string, _ listened) bool { return unknown[key] })
	return found
}

// serverNetworks returns the networks that a server listens on. known is false if
// it lists an address of another network, which may have clients of either kind.
func serverNetworks(server *layer4.Server) (networks []upstream.Network, known bool) {
	known = true
	for _, addr := range parsedAddresses(server) {
		switch strings.TrimRight(strings.TrimPrefix(addr.Network, "relay+"), "46") {
		case "tcp", "unix":
			networks = append(networks, upstream.TCP)
		case "udp", "unixgram":
			networks = append(networks, upstream.UDP)
		default:
			known = false
		}
	}
	return networks, known && len(networks) > 0
}

// relayConfigs returns the relays in the config of a handler, which may contain
// routes of its own.
func relayConfigs(raw json.RawMessage) (configs []caddyfile.Config) {
	var object map[string]json.RawMessage
	var list []json.RawMessage
	switch {
	case json.Unmarshal(raw, &list) == nil:
		for _, element := range list {
			configs = append(configs, relayConfigs(element)...)
		}
	case json.Unmarshal(raw, &object) != nil:
	case isRelay([]json.RawMessage{raw}):
		var config caddyfile.Config
		if json.Unmarshal(raw, &config) != nil {
			return nil // its own error
		}
		if config, err := config.Resolved(caddy.NewReplacer()); err == nil {
			configs = append(configs, config)
		}
	default:
		for _, value := range object {
			configs = append(configs, relayConfigs(value)...)
		}
	}
	return configs
}

// checkProbed returns an error if a service listens on one network alone and its
// health check probes only the other one. Every backend would fail it.
func (l listened) checkProbed(check *caddyfile.HealthCheckOptions) error {
	switch {
	case check == nil:
	case check.TCP && !check.UDP && l.alone(upstream.UDP):
		advice := "write network udp, and send, dns or http"
		if len(check.Send) > 0 || check.HTTP != nil {
			advice = "write network udp"
		}
		return fmt.Errorf("health_check.network: tcp probes a service that listens on UDP alone (%s); %s", l.where, advice)
	case check.UDP && !check.TCP && l.alone(upstream.TCP):
		return fmt.Errorf("health_check.network: udp probes a service that listens on TCP alone (%s); write network tcp", l.where)
	}
	return nil
}
