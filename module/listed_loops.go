package module

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file finds the relays whose backends, as written, lead back to them. Loops
// that only a lookup or the addresses of this machine show are found when a client
// comes, see [handler.Loops].

// listedBackend is a backend of a relay in a layer4 server.
type listedBackend struct {
	caddyfile.Backend
	service   string
	resolvers bool // the service has name servers of its own
}

// listedPort is a listing of one port by a layer4 server.
type listedPort struct {
	server, text, host string // host is normalized, see [listenHost]
	onlyIPv6           bool   // host is "::", which has no IPv4 address here
}

// portKey identifies a port on both Caddy's networks and ours.
type portKey struct {
	network upstream.Network
	port    uint16
}

// checkLoops reports the relays of a layer4 app that lead back to themselves.
func checkLoops(app *layer4.App, relays serverRelays) error {
	g := loopGraph{
		backends: make(map[string][]listedBackend),
		networks: make(map[string][]upstream.Network),
		ports:    make(map[portKey][]listedPort),
		own:      make(map[string][]uint16),
	}
	wanted := make(map[uint16]bool)
	for name, configs := range relays {
		for _, config := range configs {
			for _, text := range config.Backends {
				if b, err := caddyfile.ParseBackend(text); err == nil {
					g.backends[name] = append(g.backends[name], listedBackend{b, config.Service(), len(config.Resolvers) > 0})
					if b.ClientPort {
						g.addOwnPorts(name, app.Servers[name], wanted)
					}
					wanted[b.Port] = true
				}
			}
		}
	}
	for name, server := range app.Servers {
		g.addPorts(name, server, wanted)
	}
	return g.check()
}

// loopGraph has an edge from one layer4 server to another if a backend of the first
// is an address that the second lists.
type loopGraph struct {
	backends map[string][]listedBackend    // by server, as are networks
	networks map[string][]upstream.Network // that the server listens on
	ports    map[portKey][]listedPort
	own      map[string][]uint16 // by server with a backend that has the port of each client: the ports that it lists
}

// addPorts adds the ports that a server lists and that some backend has.
func (g *loopGraph) addPorts(name string, server *layer4.Server, wanted map[uint16]bool) {
	g.networks[name], _ = serverNetworks(server)
	for text, addr := range parsedAddresses(server) {
		switch strings.TrimRight(strings.TrimPrefix(addr.Network, "relay+"), "46") {
		case "tcp", "udp":
		default:
			continue
		}
		n := transportOf(addr.Network)
		host := listenHost(addr)
		listed := listedPort{name, text, host, host == "::" && strings.HasSuffix(addr.Network, "6")}
		add := func(port uint16) { g.ports[portKey{n, port}] = append(g.ports[portKey{n, port}], listed) }
		if int(addr.EndPort-addr.StartPort) > len(wanted) {
			for port := range wanted {
				if uint(port) >= addr.StartPort && uint(port) <= addr.EndPort {
					add(port)
				}
			}
			continue
		}
		for port := addr.StartPort; port <= addr.EndPort; port++ {
			if wanted[uint16(port)] {
				add(uint16(port))
			}
		}
	}
}

// addOwnPorts adds the ports that a server lists to those that some backend has: a
// backend with the port of each client has all of them.
func (g *loopGraph) addOwnPorts(name string, server *layer4.Server, wanted map[uint16]bool) {
	if g.own[name] != nil || server == nil {
		return
	}
	g.own[name] = []uint16{}
	for _, addr := range parsedAddresses(server) {
		for port := addr.StartPort; port <= addr.EndPort; port++ {
			wanted[uint16(port)] = true
			g.own[name] = append(g.own[name], uint16(port))
		}
	}
}

// portsOf returns the ports of a server's backend.
func (g *loopGraph) portsOf(server string, b listedBackend) []uint16 {
	if !b.ClientPort {
		return []uint16{b.Port}
	}
	return g.own[server]
}

// listenHost returns the host of a listener: an address without brackets, where
// "::" means all addresses, or a name in lower case.
func listenHost(addr caddy.NetworkAddress) string {
	host := newListenAddress(addr.Network, addr.Host, 0).host
	if host == "::" && strings.HasSuffix(addr.Network, "4") {
		return "0.0.0.0"
	}
	return host
}

// reaches reports whether a connection to a backend leads to a listener on the same
// port of the same network, as far as they are written. It looks up no name and no
// address of an interface. A name that the listener and the backend look up in
// different ways may have two addresses.
func reaches(listener listedPort, b listedBackend) bool {
	listening, err := netip.ParseAddr(listener.host)
	switch {
	case listener.onlyIPv6 && (!b.Addr.IsValid() || b.Addr.Is4()):
		return false
	case err != nil || !b.Addr.IsValid(): // a name
		return listener.host == b.Host && !b.resolvers || listener.host == "::" && b.Host == "localhost"
	case listening == b.Addr:
		return true
	case listening == netip.IPv6Unspecified():
		return b.Addr.IsLoopback() || b.Addr.IsUnspecified()
	case listening == netip.IPv4Unspecified():
		return b.Addr.Is4() && b.Addr.IsLoopback()
	default:
		return b.Addr.IsUnspecified() && listening.IsLoopback() && listening.Is4() == b.Addr.Is4()
	}
}

// loopEdge is an edge of a loopGraph.
type loopEdge struct {
	from    string // a server
	backend listedBackend
	to      listedPort
}

// check reports each loop, with the service and the backend that begin it.
func (g *loopGraph) check() error {
	var problems []error
	reported := make(map[listedBackend]bool)
	for _, n := range []upstream.Network{upstream.TCP, upstream.UDP} {
		done := make(map[string]bool)
		for _, server := range slices.Sorted(maps.Keys(g.backends)) {
			for _, loop := range g.loopsFrom(n, server, nil, done) {
				if first := loop[0].backend; !reported[first] {
					reported[first] = true
					problems = append(problems, loopProblem(loop))
				}
			}
		}
	}
	return errors.Join(problems...)
}

// loopsFrom returns the loops that a depth-first search from a server finds. path
// leads to the server. done holds the servers that were searched.
func (g *loopGraph) loopsFrom(n upstream.Network, server string, path []loopEdge, done map[string]bool) (loops [][]loopEdge) {
	if done[server] || !slices.Contains(g.networks[server], n) {
		return nil
	}
	for _, b := range g.backends[server] {
		for _, listed := range g.reached(n, server, b) {
			longer := append(slices.Clip(path), loopEdge{server, b, listed})
			if begin := slices.IndexFunc(longer, func(e loopEdge) bool { return e.from == listed.server }); begin >= 0 {
				loops = append(loops, longer[begin:])
			} else {
				loops = append(loops, g.loopsFrom(n, listed.server, longer, done)...)
			}
		}
	}
	done[server] = true
	return loops
}

// reached returns the listings that a backend of a server leads to, one of each
// server.
func (g *loopGraph) reached(n upstream.Network, server string, b listedBackend) (list []listedPort) {
	seen := make(map[string]bool)
	for _, port := range g.portsOf(server, b) {
		for _, listed := range g.ports[portKey{n, port}] {
			if !seen[listed.server] && reaches(listed, b) {
				seen[listed.server] = true
				list = append(list, listed)
			}
		}
	}
	return list
}

// loopProblem describes a loop.
func loopProblem(loop []loopEdge) error {
	first := loop[0]
	text := fmt.Sprintf("service %q: backends: %q leads back to service %q: layer4 server %q lists %s",
		first.backend.service, first.backend.Text, first.backend.service, first.to.server, first.to.text)
	for _, next := range loop[1:] {
		text += fmt.Sprintf(", its service %q has the backend %q, and layer4 server %q lists %s",
			next.backend.service, next.backend.Text, next.to.server, next.to.text)
	}
	return errors.New(text)
}
