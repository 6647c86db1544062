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

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/listen"
)

// sockets holds the sockets of the networks relay+tcp/ and relay+udp/. It is not
// a caddy.UsagePool, because a socket outlives its listeners while it has
// clients, and because opening a socket must not overlap with closing it.
var sockets = newSockets()

func newSockets() *listen.Sockets {
	s := listen.NewSockets()
	s.FreeDescriptor = sessionBudget.FreeDescriptor
	s.Exiting = caddy.Exiting
	s.TCPWatcher, _ = tcpEngine.(listen.Watcher) // only engines with event loops are Watchers
	s.UDPWatcher, _ = udpEngine.(listen.UDPWatcher)
	return s
}

// loops finds the attempts that would lead a relay back to itself.
var loops = handler.NewLoops()

// The networks that layer4 servers can list in addition to Caddy's own.
const (
	networkTCP = "relay+tcp"
	networkUDP = "relay+udp"
)

// listenTCP opens a listener of the network relay+tcp/. Its socket survives
// reloads.
func listenTCP(ctx context.Context, network, host, portRange string, offset uint, _ net.ListenConfig) (any, error) {
	return openListener(ctx, network, host, portRange, offset, sockets.TCP)
}

// listenUDP opens a listener of the network relay+udp/, which accepts one
// connection per UDP client. Its socket survives reloads.
func listenUDP(ctx context.Context, network, host, portRange string, offset uint, _ net.ListenConfig) (any, error) {
	return openListener(ctx, network, host, portRange, offset, sockets.UDP)
}

// addConfig records a config, so that sockets know the length of a reload.
func addConfig(ctx caddy.Context) {
	sockets.AddConfig(ctx.Context, ctx.Logger(new(Relay))) // Caddy has one Context.Context for each config
}

// socketAddress returns the address of the socket for a listed address, which may be
// one of the service manager, such as relay+tcp/fd/web.
func socketAddress(network, host string, port uint16) (netip.AddrPort, error) {
	name, activated := activatedName(host)
	if !activated {
		return listen.Address(host, port)
	}
	at, err := sockets.FindInherited(strings.TrimPrefix(network, "relay+"), name)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s: %w", host, err)
	}
	return at, nil
}

func openListener[L net.Listener](ctx context.Context, network, host, portRange string, offset uint, open func(at netip.AddrPort, opts listen.Options) (L, error)) (any, error) {
	first, _, _ := strings.Cut(portRange, "-")
	port, err := strconv.ParseUint(first, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("%s/%s: port %q: %w", network, host, portRange, err)
	}
	listed := uint16(port) + uint16(offset)
	at, err := socketAddress(network, host, listed)
	if err != nil {
		return nil, fmt.Errorf("%s/%w", network, err)
	}
	var opts listen.Options
	var app *App
	if cctx, ok := ctx.(caddy.Context); ok {
		addConfig(cctx)
		opts.Owner, opts.Log = cctx.Context, configLog(cctx)
		if err := otherListing(cctx, network, at); err != nil {
			return nil, err
		}
		if found, err := cctx.AppIfConfigured("relay"); err == nil {
			app = found.(*App)
		}
		if _, is := cctx.Module().(*layer4.App); is && app != nil {
			if relay := app.directRelay(network, host, listed, cctx.Logger()); relay != nil {
				opts.TakeTCP, opts.TakeUDP = relay.startTCP, relay.startUDP
			}
		}
	} else {
		opts.Log = processLog()
	}
	ln, err := open(at, opts)
	if err != nil {
		return nil, fmt.Errorf("%s/%s: %w", network, at, err)
	}
	// A config that is rejected after it has opened listeners never closes them.
	// Our app closes them at once. If the config does not have our app, they are
	// closed when its context ends.
	context.AfterFunc(ctx, func() { _ = ln.Close() })
	context.AfterFunc(ctx, loops.Listen(transportOf(network), at))
	if app != nil {
		app.addListener(ln)
	}
	return ln, nil
}
