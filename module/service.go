package module

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/hook"
	"github.com/async-relay/caddy-relay/internal/loglimit"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/resolver"
	"github.com/async-relay/caddy-relay/upstream"
)

// services holds the state of each service across reloads, by serviceKey.
var services = caddy.NewUsagePool()

// What all relays of the process share.
var (
	processors = netio.NewProcessorBudget()  // of the loops of both engines
	udpEngine  = dgram.NewEngine(processors) // opens the backend sockets of UDP sessions
	tcpEngine  = stream.NewEngine(processors)

	rescueMemory = stream.NewMemory(handler.RescueLimit)     // of the kept bytes of all clients
	backlogs     = handler.NewBacklogs(handler.BacklogLimit) // bounds the memory of unanswered datagrams
)

// sessionBudget bounds the UDP sessions of all services of the process.
var sessionBudget = handler.NewSessionBudget(netio.SessionLimit(), udpEngine)

// service is the state of a service. The handlers of its name in all loaded
// configs share it. It stays in services until its last relay has ended, also
// after the last config that had it.
type service struct {
	*handler.Service
	key string                   // in services
	dns atomic.Pointer[cacheRef] // of the latest settings; relays of older settings use it too

	shutdown  atomic.Int64                // the shutdown_timeout of the latest settings, a time.Duration
	current   atomic.Pointer[settings]    // nil: no started config has the service
	queued    atomic.Pointer[settings]    // that the queue follows; written under mu
	applied   chan struct{}               // closed when the first settings are current
	following atomic.Pointer[[]*follower] // of the SRV backends; written under mu
	early     earlyEvents
	dropped   loglimit.Limiter // events that found the emitter's queue full

	mu           sync.Mutex         // guards the fields below
	running      []*settings        // of the started configs; the queue follows the last one
	removed      context.Context    // ends when a config has the service again; nil: one has it, or nothing lingers
	cancelLinger context.CancelFunc // ends removed
	stopProbes   context.CancelFunc // stops the health checks; nil if there are none

	// The targets of SRV backends in an earlier process, until the first followers have
	// them.
	remembered map[string]resolver.TargetList
}

// settings are the settings of a service in one config, as far as they concern
// the service as a whole.
type settings struct {
	addresses       []upstream.Address // as configured: the host of an SRV backend is its text
	connectTimeout  time.Duration      // for tests through the admin API
	cooldown        time.Duration
	gracePeriod     time.Duration
	shutdownTimeout time.Duration
	dns             *cacheRef
	log             *zap.Logger
	hook            *hook.Config // nil: none
	events          *caddyevents.App
	ctx             caddy.Context        // for emitting events
	check           *handler.HealthCheck // nil: backends are not probed
	checkKind       string               // check in words, without the values of placeholders; "" if there is none
	proxyProtocol   handler.ProxyProtocol
	listened        listened
	relay           *handler.Relay // probes the backends
}

func newSettings(opts caddyfile.Options, dns *cacheRef, log *zap.Logger) *settings {
	set := &settings{
		connectTimeout:  opts.ConnectTimeout,
		cooldown:        opts.Cooldown,
		gracePeriod:     opts.GracePeriod,
		shutdownTimeout: opts.ShutdownTimeout,
		dns:             dns,
		log:             log,
		check:           newHealthCheck(opts),
		proxyProtocol:   handler.ProxyProtocol(opts.ProxyProtocol),
	}
	for _, b := range opts.Backends {
		host := b.Host
		if b.SRV != "" {
			host = srvPrefix + b.SRV
		}
		set.addresses = append(set.addresses, upstream.Address{Text: b.Text, Host: host, Port: b.Port, IP: b.Addr})
	}
	return set
}

// serviceKey returns the identity of a service across reloads: its name, or all
// its settings if it has no name.
func serviceKey(config caddyfile.Config) (string, error) {
	if config.Name != "" {
		return "name " + config.Name, nil
	}
	text, err := json.Marshal(config)
	return "settings " + string(text), err
}

// loadService finds or creates the state of a service, and reports whether it is new.
// Relay.release gives it back.
func loadService(config caddyfile.Config, set *settings) (s *service, isNew bool, err error) {
	key, err := serviceKey(config)
	if err != nil {
		return nil, false, err
	}
	value, exists, err := services.LoadOrNew(key, func() (caddy.Destructor, error) {
		pool := upstream.NewPool(set.addresses, set.cooldown, time.Now())
		s := &service{key: key, applied: make(chan struct{})}
		s.Service = handler.NewService(config.Service(), pool, s.onEvent, sessionBudget)
		s.dns.Store(set.dns)
		s.queued.Store(set)
		return s, nil
	})
	if err != nil {
		return nil, false, err
	}
	return value.(*service), !exists, nil
}

// apply makes the settings of a config that starts the current ones. It returns a
// summary of the changes.
func (s *service) apply(set *settings) reloadSummary {
	sum, ended := s.applySettings(set)
	for _, f := range ended {
		f.close()
	}
	return sum
}

// applySettings does the work of apply. The caller must close the followers that it
// returns.
func (s *service) applySettings(set *settings) (sum reloadSummary, ended []*follower) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = append(s.running, set)
	s.current.Store(set)
	s.early.take(s.passOn)
	if s.removed != nil {
		s.cancelLinger()
		s.removed = nil
	}
	s.queued.Store(set)
	s.dns.Store(set.dns)
	s.shutdown.Store(int64(set.shutdownTimeout))
	ended = s.restartFollowersLocked(set)
	s.remembered = nil
	before, after := s.Pool.Update(s.addressesLocked(set), set.cooldown)
	s.EndRemoved("reload")
	s.restartProbesLocked()
	select {
	case <-s.applied:
	default:
		close(s.applied)
	}
	if len(s.running) == 1 {
		prepare()
		set.log.Info("service started", zap.String("service", s.Name), zap.Strings("order", after))
		return reloadSummary{}, ended
	}
	sum = s.summarize(before, after)
	if sum.queueChanged() {
		s.Journal.Add(handler.Entry{Kind: handler.KindReload, Order: after})
	}
	if s.allDrained() {
		set.log.Warn("all backends are drained, new clients are refused", zap.String("service", s.Name), zap.Strings("order", after))
	}
	return sum, ended
}

// adopt makes the queue follow the settings of a config that gets clients before its
// settings are applied, if no started config has the service. The queue is that of a
// config that has ended otherwise, which only remaining clients kept. SRV backends keep
// it: their targets are not known before the settings are applied.
func (s *service) adopt(set *settings) {
	if s.current.Load() != nil || s.queued.Load() == set || set.hasSRV() {
		return
	}
	collected.ledger.record(time.Now()) // before the backends change
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.running) > 0 || s.queued.Load() == set {
		return
	}
	s.queued.Store(set)
	s.dns.Store(set.dns)
	s.Pool.Update(set.addresses, set.cooldown)
}

// hasSRV reports whether a backend stands for targets of SRV records.
func (set *settings) hasSRV() bool {
	return slices.ContainsFunc(set.addresses, func(a upstream.Address) bool { return strings.HasPrefix(a.Host, srvPrefix) })
}

// allDrained reports whether every backend is drained. The admin API does not
// drain the last undrained backend, but a reload can remove it.
func (s *service) allDrained() bool {
	walk := s.Pool.Walk(upstream.TCP) // a backend is drained on both networks
	_, ok := walk.Next(time.Now())
	return !ok
}

// retire removes the settings of a config that has ended. It does nothing if the
// config was rejected, or if another of its handlers has retired the settings. If
// no started config has the service, it returns a context that ends when one has it
// again. Otherwise it returns nil.
func (s *service) retire(set *settings) (removed context.Context) {
	removed, ended := s.retireSettings(set)
	for _, f := range ended {
		f.close()
	}
	return removed
}

// retireSettings does the work of retire. The caller must close the followers that it
// returns.
func (s *service) retireSettings(set *settings) (removed context.Context, ended []*follower) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.running, set); i >= 0 {
		s.running = slices.Delete(s.running, i, i+1)
		if last := len(s.running) - 1; last >= 0 {
			s.current.Store(s.running[last])
		} else {
			s.current.Store(nil)
			ended = s.restartFollowersLocked(nil)
			s.restartProbesLocked()
			set.log.Info("service stopped", zap.String("service", s.Name))
		}
	}
	if len(s.running) > 0 {
		return nil, ended
	}
	if s.removed == nil {
		s.removed, s.cancelLinger = context.WithCancel(context.Background())
	}
	return s.removed, ended
}

// linger keeps a removed service until its last client has ended, and then calls
// release. After the grace period it cuts the remaining relays. It returns early
// if a config has the service again. When the process exits, or was replaced by
// another one, there is no grace period: shutDown or finish ends the relays.
func (s *service) linger(removed context.Context, set *settings, release func()) {
	defer release()
	if set.gracePeriod > 0 && !leaving() {
		grace, cancel := context.WithTimeout(removed, set.gracePeriod)
		defer cancel()
		if s.WaitIdle(grace) == nil {
			return
		}
		s.cutIfRemoved(removed)
	}
	_ = s.WaitIdle(removed)
}

// cutIfRemoved cuts all relays unless a config has the service again.
func (s *service) cutIfRemoved(removed context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if removed.Err() == nil {
		s.Cut()
	}
}

// shutdownTimeout returns the shutdown_timeout of the latest settings.
func (s *service) shutdownTimeout() time.Duration {
	return time.Duration(s.shutdown.Load())
}

// Destruct implements caddy.Destructor. Caddy calls it when neither a config nor
// a relay uses the service any more.
func (s *service) Destruct() error {
	s.Close() // ends attempts and timers without a client
	collected.ledger.close(s, time.Now())
	return nil
}
