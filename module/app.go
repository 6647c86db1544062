package module

import (
	"fmt"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/caddyfile"
)

// App is the Caddy app behind all relay handlers of a config. It needs no
// configuration and comes into being with the first handler. It is there so
// that settings take effect when a config starts, and not when it is merely
// looked at: a rejected config changes nothing.
type App struct {
	mu     sync.Mutex // guards relays: handlers are provisioned one by one today, nothing says they always will
	relays map[string]*Relay
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "relay",
		New: func() caddy.Module { return new(App) },
	}
}

// add books a handler of this config. Handlers of one name are one service
// and must agree on its settings.
func (a *App) add(r *Relay) error {
	a.mu.Lock()
	defer a.mu.Unlock()
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

// Start puts the settings of this config into force.
func (a *App) Start() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.relays {
		r.service.commit(r.settings)
	}
	return nil
}

// Stop does nothing: settings are taken back as the handlers are cleaned up,
// which also happens to a config that never started.
func (a *App) Stop() error { return nil }

// processLog is the relay's log for what outlives a config: that of whichever
// config is running.
func processLog() *zap.Logger {
	if ctx := caddy.ActiveContext(); ctx.Context != nil {
		return ctx.Logger(new(Relay))
	}
	return caddy.Log().Named(string(new(Relay).CaddyModule().ID)) // the first one has not quite started
}

// Interface guard.
var _ caddy.App = (*App)(nil)
