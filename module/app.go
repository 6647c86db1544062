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
	"github.com/async-relay/caddy-relay/internal/logqueue"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/module/memory"
)

// logs holds the lines of all configs until Caddy's logs have written them.
var logs logqueue.Queues

// logFlushTimeout bounds the wait for lines that are not written yet, at the end
// of a config and of the process.
const logFlushTimeout = time.Second

// App is the Caddy app behind all relay handlers of a config. It makes settings
// take effect only when their config starts, so that a rejected config changes
// nothing. It needs no configuration: the first handler creates it then.
type App struct {
	caddyfile.AppConfig

	logs *logqueue.Queue // set by Provision, as is ctx
	ctx  caddy.Context

	memoryKey string         // "" if nothing is remembered; set by Provision, as is recalled
	recalled  recalled       // from an earlier process
	keeper    *memory.Keeper // of the memory, while the config is the current one; guarded by turn.mu; nil: none

	mu        sync.Mutex          // guards the fields below; Caddy does not promise to provision handlers one by one
	relays    map[string]*Relay   // by service key; the first handler of each service
	listeners []net.Listener      // on our networks; closed with the config
	direct    directServers       // nil until the first handler of the layer4 app is added
	listened  map[string]listened // by service key; set with direct
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
	queueStd.Store(true)
	a.logs, a.ctx = logs.New(ctx.Logger(new(Relay))), ctx
	addConfig(ctx)
	if err := extendStopTimeout(ctx); err != nil {
		return err
	}
	config, err := a.AppConfig.Resolved(caddy.NewReplacer())
	if err == nil {
		err = config.Validate()
	}
	if err != nil {
		return err
	}
	a.AppConfig = config
	a.recall()
	return registerMetrics(ctx)
}

// log returns the logger of all that concerns the relays of this config. It does
// not wait for its writers.
func (a *App) log() *zap.Logger { return a.logs.Logger() }

// add adds a handler of this config. parents are the modules that contain it,
// outermost first. Handlers of the same name are one service and must have the
// same settings. The first handler of the layer4 app also checks the addresses
// that the app lists.
func (a *App) add(r *Relay, parents []caddy.Module) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.direct == nil && len(parents) > 0 {
		if app, ok := parents[0].(*layer4.App); ok {
			if err := checkListed(app); err != nil {
				return err
			}
			relays := findRelays(app)
			if err := checkLoops(app, relays); err != nil {
				return err
			}
			a.direct, a.listened = findDirectServers(app), findListened(app, relays)
		}
	}
	if err := a.listened[r.service.key].checkProbed(r.Options().HealthCheck); err != nil {
		return fmt.Errorf("service %q: %w", r.Service(), err)
	}
	r.settings.listened = a.listened[r.service.key]
	if a.relays == nil {
		a.relays = make(map[string]*Relay)
	}
	first := a.relays[r.service.key]
	if first == nil {
		a.relays[r.service.key] = r
		return nil
	}
	if field, one, other := caddyfile.Diff(first.Config, r.Config); field != "" {
		return fmt.Errorf("service %q: %s: two relays of this name must have the same settings, got %s and %s", r.Service(), field, one, other)
	}
	r.settings = first.settings
	return nil
}

// turn holds the app of the current config and the one started after it. A started config can
// still be rejected, because another of its apps fails to start. It is accepted
// once Caddy stops its predecessor; only then its settings take effect.
var turn struct {
	mu      sync.Mutex  // guards the fields below, and is held while settings change
	current *App        // nil: no config runs
	next    *App        // nil: no reload is in progress
	exit    *exitMemory // written when the last relay has ended; nil: none
}

// Start implements caddy.App.
func (a *App) Start() error {
	recordListings(a.ctx)
	turn.mu.Lock()
	defer turn.mu.Unlock()
	if turn.current != nil {
		turn.next = a
		return nil
	}
	turn.current = a
	if unknown := netio.UnknownDisabled(); len(unknown) > 0 {
		a.log().Error("unknown words in RELAY_DISABLE", zap.Strings("unknown", unknown), zap.Strings("known", netio.FastPaths))
	}
	a.apply()
	a.startMemory(nil)
	return nil
}

// Stop implements caddy.App. The settings end later, when Caddy cleans up the
// handlers.
func (a *App) Stop() error {
	turn.mu.Lock()
	defer turn.mu.Unlock()
	switch a {
	case turn.next:
		turn.next = nil
	case turn.current:
		a.endMemory(turn.next)
		turn.current, turn.next = turn.next, nil
		if turn.current != nil {
			turn.current.apply()
			turn.current.startMemory(a.keeper)
		} else {
			leaveFleet()
		}
	}
	return nil
}

// Cleanup implements caddy.CleanerUpper. It stops the app too, because Caddy may
// discard a started config without stopping its apps. It closes the listeners,
// because layer4 does not close those that it opened before it failed to start.
// So they are closed before the user gets the error. It also writes the lines that
// wait for the logs of this config. At exit, shutDown does that.
func (a *App) Cleanup() error {
	if a.logs != nil && !leaving() {
		defer a.logs.Release(logFlushTimeout)
	}
	a.mu.Lock()
	listeners := a.listeners
	a.listeners = nil
	a.mu.Unlock()
	for _, ln := range listeners {
		_ = ln.Close()
	}
	return a.Stop()
}

// directRelay returns the relay that gets all clients at an address of one of
// our networks, or nil if there is none. log is that of the layer4 app.
func (a *App) directRelay(network, host string, port uint16, log *zap.Logger) *Relay {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.direct.relay(network, host, port, log)
}

// addListener adds a listener that is closed with this config.
func (a *App) addListener(ln net.Listener) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.listeners = append(a.listeners, ln)
}

// apply makes the settings of this config the current ones.
func (a *App) apply() {
	a.mu.Lock()
	defer a.mu.Unlock()
	lastLog.Store(a.log())
	collected.ledger.record(time.Now())
	var sum reloadSummary
	for _, r := range a.relays {
		sum.add(r.service.apply(r.settings))
	}
	if sum.services > 0 {
		sum.log(a.log())
	}
	if !takingOver.Load() { // else the old process hands over its state, which is newer
		a.logRecall()
		if a.recalled.record != nil {
			restoreProcessCounts(a.recalled.record)
		}
	}
	a.joinFleet()
}

// lastLog is the log of the config that was applied last.
var lastLog atomic.Pointer[zap.Logger]

// processLog returns the relay's log for what outlives a config: the log of the
// running config or, while the process exits, of the last one.
func processLog() *zap.Logger {
	if ctx := caddy.ActiveContext(); ctx.Context != nil && !replaced.Load() {
		return configLog(ctx)
	}
	if log := lastLog.Load(); log != nil {
		return log
	}
	log := caddy.Log().Named(string(new(Relay).CaddyModule().ID)) // the first config has not started yet
	return logs.New(log).Logger()
}

// configLog returns the relay's log in a config, which may have no relay.
func configLog(ctx caddy.Context) *zap.Logger {
	if app, err := ctx.AppIfConfigured("relay"); err == nil {
		return app.(*App).log()
	}
	return logs.New(ctx.Logger(new(Relay))).Logger()
}

// Interface guard.
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
	_ caddy.Validator    = (*App)(nil)
)
