package module

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	cfile "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/listen"
)

// Relay is a layer4 handler that relays TCP connections and UDP datagrams to
// the first working backend of an ordered list.
//
// A backend that fails is retried at once, after a fresh DNS lookup. If it fails
// again, it moves to the end of the list. A client is refused only after every
// backend was tried. Names are looked up once an hour. While DNS fails, the old
// addresses stay in use.
//
// The same handler serves TCP and UDP: a TCP client gets a TCP connection to
// the backend, a UDP client a UDP session. It must be the last handler of its
// route.
type Relay struct {
	caddyfile.Config

	dns      *cacheRef      // held from Provision to Cleanup; nil if Provision failed before
	service  *service       // held from Provision to Cleanup; nil if Provision failed before
	settings *settings      // of service in this config
	relay    *handler.Relay // serves the clients
	ended    atomic.Bool    // set by Cleanup
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

// Provision implements caddy.Provisioner. It checks the settings and acquires
// the state that the service shares with other handlers and keeps across
// reloads. It binds no address, dials no backend and looks up no name, because
// `caddy validate` calls it too.
func (r *Relay) Provision(ctx caddy.Context) error {
	config, err := r.Config.Resolved(caddy.NewReplacer())
	if err != nil {
		return err
	}
	if err := config.Validate(); err != nil {
		return err
	}
	written := r.Config
	r.Config = config
	value, err := ctx.App("relay")
	if err != nil {
		return fmt.Errorf("service %q: %w", config.Service(), err)
	}
	app := value.(*App)
	opts := config.Options()
	if r.dns, err = loadCache(opts); err != nil {
		return fmt.Errorf("service %q: dns cache: %w", opts.Service, err)
	}
	r.settings = newSettings(opts, r.dns, app.log())
	r.settings.checkKind = written.HealthCheck.Describe()
	if err := r.settings.setEvents(ctx, opts); err != nil {
		return fmt.Errorf("service %q: events: %w", opts.Service, err)
	}
	var isNew bool
	if r.service, isNew, err = loadService(config, r.settings); err != nil {
		return fmt.Errorf("service %q: %w", opts.Service, err)
	}
	if record := app.recalled.record; isNew && record != nil && !takingOver.Load() {
		r.service.recall(record, r.settings)
	}
	if err := app.add(r, ctx.Modules()); err != nil {
		return err
	}
	r.relay = handler.New(r.service.Service, r.handlerOptions(opts, app.log()))
	if r.settings.relay == nil {
		r.settings.relay = r.relay
	}
	return nil
}

// handlerOptions converts the options of the config into those of the handler.
func (r *Relay) handlerOptions(opts caddyfile.Options, log *zap.Logger) handler.Options {
	o := handler.Options{
		ConnectTimeout:      opts.ConnectTimeout,
		IdleTimeout:         opts.IdleTimeout,
		Hedge:               opts.Hedge,
		FirstByte:           opts.FirstByteTimeout,
		Rescue:              opts.Rescue,
		Hold:                opts.Hold,
		CutDown:             opts.OnDownCut,
		RescueMemory:        rescueMemory,
		UDPReplyTimeout:     opts.UDPReplyTimeout,
		UDPResponses:        opts.UDPResponses,
		MaxUDPSessions:      opts.MaxUDPSessions,
		MaxConnections:      opts.MaxConnections,
		Clients:             handler.NewClients(opts.Allow, opts.Deny),
		MaxConnectionsPerIP: opts.MaxConnectionsPerIP,
		KeepAlive:           opts.KeepAlive,
		ProxyProtocol:       handler.ProxyProtocol(opts.ProxyProtocol),
		ProxyProtocolEvery:  opts.ProxyProtocolEvery,
		Resolver:            r.service,
		UDP:                 udpEngine,
		TCP:                 tcpEngine,
		Backlogs:            backlogs,
		Log:                 log,
		Loops:               loops,
	}
	if opts.AccessLog != "off" {
		o.AccessLog, o.AccessLogUDP = log.Named("access"), opts.AccessLog == "all"
	}
	return o
}

// Cleanup implements caddy.CleanerUpper. The relay takes no clients from now on.
// See leave.
func (r *Relay) Cleanup() error {
	if r.service == nil {
		r.release()
		return nil
	}
	r.ended.Store(true)
	removed := r.service.retire(r.settings)
	if r.relay != nil {
		r.relay.Retire()
	}
	r.leave(removed)
	return nil
}

// leave releases what Provision acquired. If no config has the service any more
// but the service has clients, that happens when its last client has ended.
// removed is the result of service.retire.
func (r *Relay) leave(removed context.Context) {
	if removed != nil && !r.service.Idle() {
		go r.service.linger(removed, r.settings, r.release) // returns after the last client, or when a config has the service again
		return
	}
	r.release()
}

// adopt is called for each client before the relay serves it, see service.adopt. A relay
// that was cleaned up serves none.
func (r *Relay) adopt() {
	if !r.ended.Load() {
		r.service.adopt(r.settings)
	}
}

func (r *Relay) release() {
	if r.service != nil {
		_, _ = services.Delete(r.service.key)
	}
	if r.dns != nil {
		r.dns.release()
	}
}

// Handle implements layer4.NextHandler. It serves one TCP client, or the
// datagrams of one UDP client. It returns no error of the client: the relay logs
// how a client ends.
func (r *Relay) Handle(cx *layer4.Connection, _ layer4.Handler) error {
	switch conn := cx.Conn.(type) {
	case *listen.Conn:
		takeDatagrams(r, cx, conn)
		return nil
	case *probe:
		conn.relay = r
		return nil
	}
	if isDatagrams(cx) {
		serveDatagrams(r, cx)
		return nil
	}
	client := clientOf(cx)
	return r.serve(func(relay *handler.Relay) bool {
		return relay.ServeTCP(context.Background(), client) // not the config's context: a reload must not end the relay
	})
}

// Interface guards.
var (
	_ caddy.Provisioner  = (*Relay)(nil)
	_ caddy.Validator    = (*Relay)(nil)
	_ caddy.CleanerUpper = (*Relay)(nil)
	_ cfile.Unmarshaler  = (*Relay)(nil)
	_ layer4.NextHandler = (*Relay)(nil)
)
