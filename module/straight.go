package module

import (
	"context"
	"encoding/json"
	"net"
	"reflect"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/async-relay/caddy-relay/internal/listen"
)

// This file is a short cut. Most servers of a relay have one route that asks
// nothing and has one handler: whoever comes in is brought to the same relay,
// by a channel, two goroutines, a wrapped connection and a table of variables
// that nobody looks at. On our own networks such clients are given to the
// relay straight from the socket.

// straight is the servers of a config that lead to a relay and nothing else, as
// far as what is written of their handlers tells.
type straight []*layer4.Server

// straightOf looks through a layer4 app's configuration. Caddy forgets that of
// each route as it is provisioned, so this is for the first relay of an app:
// the routes that have none of ours are all that is forgotten by then.
func straightOf(app *layer4.App) straight {
	servers := straight{} // not nil: it has been looked at
	for _, server := range app.Servers {
		if len(server.Routes) > 0 && isRelay(server.Routes[0].HandlersRaw) {
			servers = append(servers, server)
		}
	}
	return servers
}

// isRelay says whether a list of handlers is one relay.
func isRelay(handlers []json.RawMessage) bool {
	var only struct {
		Handler string `json:"handler"`
	}
	return len(handlers) == 1 && json.Unmarshal(handlers[0], &only) == nil && "layer4.handlers."+only.Handler == string(new(Relay).CaddyModule().ID)
}

// to is the relay that all clients at an address are brought to; nil if they
// are not, or if layer4, whose log this is, has something to say of each.
func (s straight) to(network, host string, port uint16, log *zap.Logger) *Relay {
	if log.Check(zapcore.DebugLevel, "") != nil { // Enabled would not ask which loggers a log includes
		return nil
	}
	for _, server := range s {
		if listensAt(server, network, host, port) && !asks(server.Routes[0]) {
			return endOf(server.Routes[:1])
		}
	}
	return nil
}

// endOf is the relay that a route ends at, which asks nothing and has but one
// handler.
func endOf(route layer4.RouteList) *Relay {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	found := &probe{Conn: near}
	nowhere := layer4.HandlerFunc(func(*layer4.Connection) error { return nil })
	_ = route.Compile(zap.NewNop(), 0, nowhere).Handle(layer4.WrapConnection(found, nil, zap.NewNop()))
	return found.relay
}

// probe is a client that is none: the relay that it is brought to leaves its
// name and does nothing else.
type probe struct {
	net.Conn
	relay *Relay
}

// listensAt says whether a server lists an address of one of our networks, as
// it is written: a name may stand for another address by now. No other server
// of its config can have it too.
func listensAt(server *layer4.Server, network, host string, port uint16) bool {
	replacer := caddy.NewReplacer()
	for _, text := range server.Listen {
		addr, err := caddy.ParseNetworkAddress(replacer.ReplaceAll(text, "")) // as layer4 does
		if err == nil && addr.Network == network && addr.Host == host && addr.StartPort <= uint(port) && uint(port) <= addr.EndPort {
			return true
		}
	}
	return false
}

// asks says whether a route, once provisioned, looks at clients before it takes
// them. layer4 does not tell, and what cannot be seen is taken for a yes.
func asks(route *layer4.Route) bool {
	matchers := reflect.ValueOf(route).Elem().FieldByName("matcherSets")
	return !matchers.IsValid() || matchers.Kind() != reflect.Slice || matchers.Len() > 0
}

// startTCP serves a client of relay+tcp/ that has not been through a route.
func (r *Relay) startTCP(conn net.Conn) {
	client, _ := plainClient(conn) // the listener gives out no others
	r.relay.StartTCP(context.Background(), client)
}

// startUDP is the same for one of relay+udp/.
func (r *Relay) startUDP(conn *listen.Conn) (sink func(datagrams [][]byte)) {
	return (&front{Conn: conn, relay: r.relay}).deliver
}
