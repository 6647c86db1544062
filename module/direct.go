package module

import (
	"context"
	"encoding/json"
	"net"
	"reflect"

	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/async-relay/caddy-relay/internal/listen"
)

// This file finds out where clients can bypass layer4. Most servers with a relay
// have one route without matchers, whose only handler is the relay. layer4 then
// takes each client to the same relay through a channel, two goroutines, a
// wrapped connection and a table of variables. On our own networks the listener
// hands such clients directly to the relay.

// directServers holds the servers whose first route has a relay as its only
// handler, judged from the raw config, by the addresses that they list on our
// networks.
type directServers map[listenAddress]*directServer

// directServer is a server of directServers. Its relay is found once for all of
// its addresses.
type directServer struct {
	*layer4.Server
	searched bool
	relay    *Relay // nil: none gets all clients, or not searched
}

// findDirectServers returns the direct servers of a layer4 app. It must be
// called when the first relay of the app is provisioned: Caddy discards the raw
// config of each route once the route is provisioned, so until then it has
// discarded only routes without a relay.
func findDirectServers(app *layer4.App) directServers {
	servers := make(directServers)
	for _, server := range app.Servers {
		if len(server.Routes) == 0 || !isRelay(server.Routes[0].HandlersRaw) {
			continue
		}
		direct := &directServer{Server: server}
		for _, listed := range listedAddresses(server) {
			servers[listed.address] = direct
		}
	}
	return servers
}

// isRelay reports whether a list of handlers is one relay.
func isRelay(handlers []json.RawMessage) bool {
	var only struct {
		Handler string `json:"handler"`
	}
	return len(handlers) == 1 && json.Unmarshal(handlers[0], &only) == nil && "layer4.handlers."+only.Handler == string(new(Relay).CaddyModule().ID)
}

// relay returns the relay that gets all clients at an address, or nil if there is
// none. It also returns nil if log, the log of the layer4 app, is at DEBUG:
// layer4 logs each client, so clients then pass through layer4.
func (s directServers) relay(network, host string, port uint16, log *zap.Logger) *Relay {
	if log.Check(zapcore.DebugLevel, "") != nil { // Enabled would ignore which loggers a log includes
		return nil
	}
	server := s[newListenAddress(network, host, port)]
	if server == nil {
		return nil
	}
	if !server.searched {
		server.searched = true
		if !hasMatchers(server.Routes[0]) {
			server.relay = relayOf(server.Routes[:1])
		}
	}
	return server.relay
}

// relayOf returns the relay of a route that has no matchers and no other handler.
// It sends a fake client through the route.
func relayOf(route layer4.RouteList) *Relay {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	client := &probe{Conn: near}
	nowhere := layer4.HandlerFunc(func(*layer4.Connection) error { return nil })
	_ = route.Compile(zap.NewNop(), 0, nowhere).Handle(layer4.WrapConnection(client, nil, zap.NewNop()))
	return client.relay
}

// probe is a fake client. A relay that receives one records itself in it and
// returns.
type probe struct {
	net.Conn
	relay *Relay
}

// hasMatchers reports whether a provisioned route has matchers. The field is
// unexported, so it is read by reflection; if that fails, hasMatchers returns
// true.
func hasMatchers(route *layer4.Route) bool {
	matchers := reflect.ValueOf(route).Elem().FieldByName("matcherSets")
	return !matchers.IsValid() || matchers.Kind() != reflect.Slice || matchers.Len() > 0
}

// startTCP serves a client that a relay+tcp/ listener hands to the relay directly.
// It returns false after Cleanup.
func (r *Relay) startTCP(conn net.Conn) (taken bool) {
	r.adopt()
	client, _ := plainClient(conn) // the listener hands over plain sockets only
	return r.relay.StartTCP(context.Background(), client)
}

// startUDP serves a client that a relay+udp/ listener hands to the relay directly.
// The sink returns false after Cleanup, for the first datagrams of a session.
func (r *Relay) startUDP(conn *listen.Conn) listen.Sink {
	r.adopt()
	return (&directClient{Conn: conn, relay: r}).deliverOrEnd
}
