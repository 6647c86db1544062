package module

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"

	"github.com/async-relay/caddy-relay/internal/listen"
)

// sockets are the process' sockets of the networks relay+tcp/ and relay+udp/.
// They are no UsagePool: a socket also lives for the clients that came by it,
// and opening one must not overlap with closing it.
var sockets = listen.NewSockets()

// The networks that layer4 servers can list beside Caddy's own.
const (
	networkTCP = "relay+tcp"
	networkUDP = "relay+udp"
)

// listenTCP is the network relay+tcp/: a TCP socket that survives reloads.
func listenTCP(ctx context.Context, network, host, portRange string, offset uint, _ net.ListenConfig) (any, error) {
	return open(ctx, network, host, portRange, offset, sockets.TCP)
}

// listenUDP is the network relay+udp/: a UDP socket that accepts its clients.
func listenUDP(ctx context.Context, network, host, portRange string, offset uint, _ net.ListenConfig) (any, error) {
	return open(ctx, network, host, portRange, offset, sockets.UDP)
}

func open[L net.Listener](ctx context.Context, network, host, portRange string, offset uint, listener func(at netip.AddrPort, opts listen.Options) (L, error)) (any, error) {
	first, _, _ := strings.Cut(portRange, "-")
	port, err := strconv.ParseUint(first, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("%s/%s: port %q: %w", network, host, portRange, err)
	}
	at, err := listen.Address(host, uint16(port)+uint16(offset))
	if err != nil {
		return nil, fmt.Errorf("%s/%w", network, err)
	}
	opts := listen.Options{Log: processLog()}
	var app *App
	if cctx, ok := ctx.(caddy.Context); ok {
		// One layer4 app is one config; it asks for its listeners with its own context.
		opts.Owner, opts.Log = cctx.Module(), cctx.Logger(new(Relay))
		if found, err := cctx.AppIfConfigured("relay"); err == nil {
			app = found.(*App)
		}
		if _, is := opts.Owner.(*layer4.App); is && app != nil {
			if relay := app.straightTo(network, host, at.Port(), cctx.Logger()); relay != nil {
				opts.TakeTCP, opts.TakeUDP = relay.startTCP, relay.startUDP
			}
		}
	}
	ln, err := listener(at, opts)
	if err != nil {
		return nil, fmt.Errorf("%s/%s: %w", network, at, err)
	}
	// A config that is rejected after it has opened listeners never closes them.
	// Where it has our app that does it at once, elsewhere they follow.
	context.AfterFunc(ctx, func() { _ = ln.Close() })
	if app != nil {
		app.owns(ln)
	}
	return ln, nil
}
