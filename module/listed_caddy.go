package module

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/mholt/caddy-l4/layer4"

	"github.com/async-relay/caddy-relay/internal/listen"
)

// This file finds addresses that a config lists twice: on one of our networks and
// on one of Caddy's. The kernel would let both bind during a reload, and then
// distribute the clients between them.

// caddyPort is a port of Caddy's network "tcp" or "udp".
type caddyPort struct {
	network string
	port    uint16
}

// caddyListing is a server's listing of an address on one of Caddy's networks.
type caddyListing struct {
	addr   caddy.NetworkAddress
	server string // for messages
}

// caddyListings holds the addresses that a config lists on Caddy's networks.
type caddyListings map[caddyPort][]caddyListing

// listings holds the caddyListings of the configs that are open, so that each is
// found once.
var listings struct {
	mu       sync.Mutex // guards byConfig, not the values in it, which do not change
	byConfig map[context.Context]caddyListings
}

// otherListing returns an error that names both if the config lists an address of
// one of our networks also on one of Caddy's. All apps of the config have been
// provisioned.
func otherListing(ctx caddy.Context, network string, at netip.AddrPort) error {
	transport := strings.TrimPrefix(network, "relay+")
	for _, listing := range listingsOf(ctx)[caddyPort{transport, at.Port()}] {
		other, err := listing.at(at.Port())
		if err != nil || !listen.Overlap(at.Addr(), other.Addr()) {
			continue // a name that cannot be looked up is the other listener's error
		}
		if at.Addr().Is4() && onlyIPv6(listing.addr.Network, other.Addr()) {
			continue
		}
		return fmt.Errorf("%s/%s: %s lists %s/%s in the same config; remove one of the two",
			network, at, listing.server, transport, listing.addr.JoinHostPort(uint(at.Port())-listing.addr.StartPort))
	}
	return nil
}

// listingsOf returns the addresses that a config lists on Caddy's networks.
func listingsOf(ctx caddy.Context) caddyListings {
	listings.mu.Lock()
	defer listings.mu.Unlock()
	if known, ok := listings.byConfig[ctx.Context]; ok {
		return known
	}
	found := findListings(ctx)
	if listings.byConfig == nil {
		listings.byConfig = make(map[context.Context]caddyListings)
	}
	listings.byConfig[ctx.Context] = found
	context.AfterFunc(ctx.Context, func() {
		listings.mu.Lock()
		defer listings.mu.Unlock()
		delete(listings.byConfig, ctx.Context)
	})
	return found
}

// recordListings records the addresses that a config lists on Caddy's networks in
// loops, until the config ends. A name that cannot be looked up is left out.
func recordListings(ctx caddy.Context) {
	for port, list := range listingsOf(ctx) {
		network := transportOf(port.network)
		for _, listing := range list {
			at, err := listing.at(port.port)
			switch {
			case err != nil:
			case onlyIPv6(listing.addr.Network, at.Addr()):
				context.AfterFunc(ctx.Context, loops.ListenIPv6(network, port.port))
			default:
				context.AfterFunc(ctx.Context, loops.Listen(network, at))
			}
		}
	}
}

// onlyIPv6 reports whether a listener on an address has all IPv6 addresses and no
// IPv4 address.
func onlyIPv6(network string, addr netip.Addr) bool {
	return strings.HasSuffix(network, "6") && addr == netip.IPv6Unspecified()
}

// at returns the address that the listener of a port is bound to.
func (l caddyListing) at(port uint16) (netip.AddrPort, error) {
	host := l.addr.Host
	if host == "" && strings.HasSuffix(l.addr.Network, "4") {
		host = "0.0.0.0"
	}
	return listen.Address(host, port)
}

func findListings(ctx caddy.Context) caddyListings {
	found := make(caddyListings)
	if app, err := ctx.AppIfConfigured("layer4"); err == nil {
		for name, server := range app.(*layer4.App).Servers {
			for _, text := range server.Listen {
				found.add(caddy.NewReplacer().ReplaceAll(text, ""), fmt.Sprintf("layer4 server %q", name), "")
			}
		}
	}
	if app, err := ctx.AppIfConfigured("http"); err == nil {
		app := app.(*caddyhttp.App)
		for name, server := range app.Servers {
			for _, text := range server.Listen {
				described := fmt.Sprintf("HTTP server %q", name)
				found.add(text, described, "")
				if servesHTTP3(app, server, text) {
					found.add(text, described, "udp")
				}
			}
		}
	}
	return found
}

// servesHTTP3 reports whether a server also listens on UDP at an address, by the
// same rule as caddyhttp.App.Start.
func servesHTTP3(app *caddyhttp.App, server *caddyhttp.Server, text string) bool {
	httpPort := app.HTTPPort
	if httpPort == 0 {
		httpPort = caddyhttp.DefaultHTTPPort
	}
	addr, err := caddy.ParseNetworkAddress(text)
	return err == nil && len(server.TLSConnPolicies) > 0 && int(addr.StartPort) != httpPort && slices.Contains(server.Protocols, "h3")
}

// add adds an address, or each port of a range, if it is on one of Caddy's networks.
// transport replaces that of the address unless it is empty.
func (l caddyListings) add(text, server, transport string) {
	addr, err := caddy.ParseNetworkAddress(text)
	if err != nil {
		return // the server's own error
	}
	switch addr.Network {
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6":
	default:
		return
	}
	if transport == "" {
		transport = strings.TrimRight(addr.Network, "46")
	}
	for port := addr.StartPort; port <= addr.EndPort; port++ {
		at := caddyPort{transport, uint16(port)}
		l[at] = append(l[at], caddyListing{addr, server})
	}
}
