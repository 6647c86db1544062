package module

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/mholt/caddy-l4/layer4"
	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/caddyfile"
)

// App is the Caddy app behind all relay handlers of a config. It needs no
// configuration and comes into being with the first handler. It is there so
// that settings take effect when a config starts, and not when it is merely
// looked at: a rejected config changes nothing.
type App struct {
	log *zap.Logger

	mu        sync.Mutex // guards what follows: handlers are provisioned one by one today, nothing says they always will
	relays    map[string]*Relay
	listeners []net.Listener // on our networks; closed with the config
	straight  straight       // nil: no relay of layer4's has come yet
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "relay",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision implements caddy.Provisioner.
func (a *App) Provision(ctx caddy.Context) error {
	a.log = ctx.Logger(new(Relay))
	return registerMetrics(ctx)
}

// add books a handler of this config, below the modules of its place. Handlers
// of one name are one service and must agree on its settings.
func (a *App) add(r *Relay, place []caddy.Module) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.straight == nil && len(place) > 0 {
		if app, ok := place[0].(*layer4.App); ok {
			a.straight = straightOf(app)
		}
	}
	if a.relays == nil {
		a.relays = make(map[string]*Relay)
	}
	first := a.relays[r.service.key]
	if first == nil {
		a.relays[r.service.key] = r
		return nil
	}
	if field, one, other := caddyfile.Diff(first.Config, r.Config); field != "" {
		return fmt.Errorf("service %s: %s: two relays of this name must have the same settings, got %s and %s", r.Service(), field, one, other)
	}
	r.settings = first.settings
	return nil
}

// turn is whose settings are in force, and whose come next. A config that
// starts may still be rejected, because another of its apps does not start.
// That it was not shows when Caddy stops the one before it: only then its
// settings take effect.
var turn struct {
	mu         sync.Mutex // guards what follows, and is held while settings change
	app, comes *App
}

// Start implements caddy.App.
func (a *App) Start() error {
	turn.mu.Lock()
	defer turn.mu.Unlock()
	if turn.app != nil {
		turn.comes = a
		return nil
	}
	turn.app = a
	a.commit()
	return nil
}

// Stop implements caddy.App. The settings are taken back as the handlers are
// cleaned up.
func (a *App) Stop() error {
	turn.mu.Lock()
	defer turn.mu.Unlock()
	switch a {
	case turn.comes:
		turn.comes = nil
	case turn.app:
		turn.app, turn.comes = turn.comes, nil
		if turn.app != nil {
			turn.app.commit()
		}
	}
	return nil
}

// Cleanup implements caddy.CleanerUpper: Caddy may give up a config that has
// started without stopping its apps. And layer4 does not close what it opened
// before it failed; here that is done before the rejection is answered.
func (a *App) Cleanup() error {
	a.mu.Lock()
	listeners := a.listeners
	a.listeners = nil
	a.mu.Unlock()
	for _, ln := range listeners {
		_ = ln.Close()
	}
	return a.Stop()
}

// straightTo is the relay that all clients at an address of one of our networks
// are brought to; nil if there is none such.
func (a *App) straightTo(network, host string, port uint16, log *zap.Logger) *Relay {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.straight.to(network, host, port, log)
}

// owns has a listener closed with this config.
func (a *App) owns(ln net.Listener) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.listeners = append(a.listeners, ln)
}

// commit puts the settings of this config into force.
func (a *App) commit() {
	a.mu.Lock()
	defer a.mu.Unlock()
	lastLog.Store(a.log)
	collected.ledger.book(time.Now())
	var c change
	for _, r := range a.relays {
		c.add(r.service.commit(r.settings))
	}
	if c.services > 0 {
		c.tell(a.log)
	}
}

// lastLog is the log of the settings that were in force last.
var lastLog atomic.Pointer[zap.Logger]

// processLog is the relay's log for what outlives a config: that of whichever
// config is running, or, on exit, was.
func processLog() *zap.Logger {
	if ctx := caddy.ActiveContext(); ctx.Context != nil {
		return ctx.Logger(new(Relay))
	}
	if log := lastLog.Load(); log != nil {
		return log
	}
	return caddy.Log().Named(string(new(Relay).CaddyModule().ID)) // the first one has not quite started
}

// Interface guard.
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
