package module

import (
	"context"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	cfile "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/listen"
)

// Relay is a layer4 handler that relays TCP connections and UDP datagrams to
// the first backend of an ordered list that works.
//
// A backend that fails is asked again at once, over a fresh DNS lookup; if it
// fails again it goes to the end of the list. Every backend is tried before a
// client is refused. Names are looked up once an hour, and old answers are
// kept when the DNS is out.
//
// The same handler serves TCP and UDP: a TCP client gets a TCP connection to
// the backend, a UDP client a UDP session. It is the last handler of its route.
type Relay struct {
	caddyfile.Config

	names    *names         // held from Provision to Cleanup; nil if Provision did not get there
	service  *service       // the same
	settings *generation    // this config's settings of service
	relay    *handler.Relay // serves
}

// CaddyModule returns the Caddy module information.
func (*Relay) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "layer4.handlers.relay",
		New: func() caddy.Module { return new(Relay) },
	}
}

// UnmarshalCaddyfile sets up the relay from Caddyfile tokens; the syntax is
// that of [caddyfile.Config].
func (r *Relay) UnmarshalCaddyfile(d *cfile.Dispenser) error { return r.Config.UnmarshalCaddyfile(d) }

// Provision checks the settings and takes hold of what the service shares
// with other handlers and keeps across reloads. It binds, dials and looks up
// nothing: `caddy validate` comes here too.
func (r *Relay) Provision(ctx caddy.Context) error {
	config, err := r.Config.Resolved(caddy.NewReplacer())
	if err != nil {
		return err
	}
	if err := config.Validate(); err != nil {
		return err
	}
	r.Config = config
	app, err := ctx.App("relay")
	if err != nil {
		return fmt.Errorf("service %s: %w", config.Service(), err)
	}
	opts := config.Options()
	if r.names, err = loadNames(opts); err != nil {
		return fmt.Errorf("service %s: dns cache: %w", opts.Service, err)
	}
	r.settings = newGeneration(opts, r.names, ctx.Logger())
	if err := r.settings.announced(ctx, opts); err != nil {
		return fmt.Errorf("service %s: events: %w", opts.Service, err)
	}
	if r.service, err = loadService(config, r.settings); err != nil {
		return fmt.Errorf("service %s: %w", opts.Service, err)
	}
	if err := app.(*App).add(r, ctx.Modules()); err != nil {
		return err
	}
	r.relay = handler.New(r.service.Service, r.dataPath(opts, ctx.Logger()))
	if r.settings.relay == nil {
		r.settings.relay = r.relay
	}
	return nil
}

// dataPath is what the options say to the data path.
func (r *Relay) dataPath(opts caddyfile.Options, log *zap.Logger) handler.Options {
	o := handler.Options{
		ConnectTimeout:      opts.ConnectTimeout,
		IdleTimeout:         opts.IdleTimeout,
		UDPReplyTimeout:     opts.UDPReplyTimeout,
		UDPResponses:        opts.UDPResponses,
		MaxUDPSessions:      opts.MaxUDPSessions,
		MaxConnections:      opts.MaxConnections,
		MaxConnectionsPerIP: opts.MaxConnectionsPerIP,
		ProxyProtocol:       handler.ProxyProtocol(opts.ProxyProtocol),
		ProxyProtocolEvery:  opts.ProxyProtocolEvery,
		Resolver:            r.service,
		UDP:                 udpEngine,
		TCP:                 tcpEngine,
		Log:                 log,
	}
	if opts.AccessLog != "off" {
		o.AccessLog, o.AccessLogUDP = log.Named("access"), opts.AccessLog == "all"
	}
	return o
}

// Cleanup lets go of what Provision took, or has that done when the last relay
// of a service has ended that no config has any more.
func (r *Relay) Cleanup() error {
	if r.service != nil {
		if gone := r.service.retire(r.settings); gone != nil && r.service.busy() {
			go r.service.linger(gone, r.settings, r.letGo) // ends with the last relay, or when the service is back
			return nil
		}
	}
	r.letGo()
	return nil
}

func (r *Relay) letGo() {
	if r.service != nil {
		_, _ = services.Delete(r.service.key)
	}
	if r.names != nil {
		r.names.release()
	}
}

// Handle serves one TCP client, or the datagrams of one UDP client. What
// becomes of them is in the relay's own log; an end of a connection is no
// error of the handler.
func (r *Relay) Handle(cx *layer4.Connection, _ layer4.Handler) error {
	switch conn := cx.Conn.(type) {
	case *listen.Conn:
		takeDatagrams(r.relay, cx, conn)
		return nil
	case *probe:
		conn.relay = r
		return nil
	}
	if isDatagrams(cx) {
		serveDatagrams(r.relay, cx)
		return nil
	}
	// Not the config's context: a reload must not touch whom it finds here.
	r.relay.ServeTCP(context.Background(), clientOf(cx))
	return nil
}

// Interface guards.
var (
	_ caddy.Provisioner  = (*Relay)(nil)
	_ caddy.Validator    = (*Relay)(nil)
	_ caddy.CleanerUpper = (*Relay)(nil)
	_ cfile.Unmarshaler  = (*Relay)(nil)
	_ layer4.NextHandler = (*Relay)(nil)
)
