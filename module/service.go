package module

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"
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
	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// services holds what each service keeps across reloads, by serviceKey.
var services = caddy.NewUsagePool()

// The engines of all relays of the process.
var (
	udpEngine = dgram.NewEngine() // opens the backend sockets of UDP sessions
	tcpEngine = stream.NewEngine()
)

// service is the state of a service, shared by the handlers of its name in
// all configs that are loaded. It stays in services for as long as it has
// relays at work, also after the last config that had it.
type service struct {
	*handler.Service
	key   string                // in services
	names atomic.Pointer[names] // of the settings in force: also relays of older ones ask there

	shutdown atomic.Int64               // the shutdown_timeout in force, a time.Duration
	current  atomic.Pointer[generation] // the settings in force; nil: there are none
	early    early                      // events before there were any

	mu       sync.Mutex         // guards what follows
	inForce  []*generation      // settings of configs that are in force and not ended; the last one is the queue's
	returned context.CancelFunc // ends the latest linger: a config has the service again; nil before the first
	probing  context.CancelFunc // ends the health checks; nil: there are none
}

// generation is what one config wants of the service as a whole.
type generation struct {
	addresses       []upstream.Address
	connectTimeout  time.Duration // of a test by hand
	cooldown        time.Duration
	gracePeriod     time.Duration
	shutdownTimeout time.Duration
	names           *names
	log             *zap.Logger
	hook            *hook.Config // nil: none
	events          *caddyevents.App
	ctx             caddy.Context        // what events are emitted with
	check           *handler.HealthCheck // nil: backends are not probed
	relay           *handler.Relay       // probes
}

func newGeneration(opts caddyfile.Options, n *names, log *zap.Logger) *generation {
	g := &generation{
		connectTimeout:  opts.ConnectTimeout,
		cooldown:        opts.Cooldown,
		gracePeriod:     opts.GracePeriod,
		shutdownTimeout: opts.ShutdownTimeout,
		names:           n,
		log:             log,
		check:           healthCheckOf(opts),
	}
	for _, b := range opts.Backends {
		g.addresses = append(g.addresses, upstream.Address{Text: b.Text, Host: b.Host, Port: b.Port, IP: b.Addr})
	}
	return g
}

// serviceKey is what makes a service the same one in the next config: its
// name, or all its settings where it has none.
func serviceKey(config caddyfile.Config) (string, error) {
	if config.Name != "" {
		return "name " + config.Name, nil
	}
	settings, err := json.Marshal(config)
	return "settings " + string(settings), err
}

// loadService finds or makes the state of a service; letGo gives it back.
func loadService(config caddyfile.Config, g *generation) (*service, error) {
	key, err := serviceKey(config)
	if err != nil {
		return nil, err
	}
	value, _, err := services.LoadOrNew(key, func() (caddy.Destructor, error) {
		pool := upstream.NewPool(g.addresses, g.cooldown, time.Now())
		s := &service{key: key}
		s.Service = handler.NewService(config.Service(), pool, s.happened)
		s.names.Store(g.names)
		return s, nil
	})
	if err != nil {
		return nil, err
	}
	return value.(*service), nil
}

// commit puts the settings of a config that starts into force, and says what
// that changed.
func (s *service) commit(g *generation) change {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inForce = append(s.inForce, g)
	s.current.Store(g)
	for _, e := range s.early.take() {
		s.happened(e)
	}
	if s.returned != nil {
		s.returned()
	}
	before := s.Pool.Order()
	s.names.Store(g.names)
	s.shutdown.Store(int64(g.shutdownTimeout))
	s.Pool.Update(g.addresses, g.cooldown)
	s.probeLocked()
	if len(s.inForce) == 1 {
		g.log.Info("service started", zap.String("service", s.Name), zap.Strings("order", s.Pool.Order()))
		return change{}
	}
	c := s.changeSince(before)
	if c.ofQueue() {
		s.Journal.Add(handler.Entry{Kind: handler.KindReload, Order: s.Pool.Order()})
	}
	if s.allDrained() {
		g.log.Warn("all backends are drained, new clients are refused", zap.String("service", s.Name), zap.Strings("order", s.Pool.Order()))
	}
	return c
}

// allDrained says whether a reload took out the last backend that was not
// drained, which nobody can drain.
func (s *service) allDrained() bool {
	walk := s.Pool.Walk(upstream.TCP) // one switch for both networks
	_, ok := walk.Next(time.Now())
	return !ok
}

// retire takes the settings of a config back that has ended. If no config has
// the service any more, gone is not nil, and ends when one has it again.
func (s *service) retire(g *generation) (gone context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.inForce, g)
	if i < 0 {
		return nil // rejected, or another handler of the same config was here
	}
	s.inForce = slices.Delete(s.inForce, i, i+1)
	if last := len(s.inForce) - 1; last >= 0 {
		s.current.Store(s.inForce[last])
		return nil
	}
	s.current.Store(nil)
	s.probeLocked()
	g.log.Info("service stopped", zap.String("service", s.Name))
	gone, s.returned = context.WithCancel(context.Background())
	return gone
}

// linger keeps a service that no config has any more for the relays that it
// still has, and cuts them after the grace period. It ends with the last of
// them, or when a config has the service again. On exit there is no grace
// period, but a drain.
func (s *service) linger(gone context.Context, g *generation, letGo func()) {
	defer letGo()
	if g.gracePeriod > 0 && !caddy.Exiting() {
		grace, cancel := context.WithTimeout(gone, g.gracePeriod)
		defer cancel()
		if s.WaitIdle(grace) == nil {
			return
		}
		s.cutIf(gone)
	}
	_ = s.WaitIdle(gone)
}

// cutIf cuts all relays if no config has had the service since gone began.
func (s *service) cutIf(gone context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if gone.Err() == nil {
		s.Cut()
	}
}

// shutdownTimeout is that of the settings that were in force last.
func (s *service) shutdownTimeout() time.Duration {
	return time.Duration(s.shutdown.Load())
}

// busy says whether the service has relays at work.
func (s *service) busy() bool {
	tcp, udp := s.Active()
	return tcp+udp > 0
}

// Destruct is called when neither a config nor a relay has the service.
func (s *service) Destruct() error {
	collected.ledger.close(s, time.Now())
	return nil
}

// Cached implements handler.Resolver, as do Lookup and Refresh: by the DNS
// settings in force, whichever those of the relay that asks were.
func (s *service) Cached(host string) ([]netip.Addr, bool) { return s.names.Load().Cached(host) }

// Lookup implements handler.Resolver.
func (s *service) Lookup(ctx context.Context, host string, patience time.Duration) ([]netip.Addr, error) {
	return s.names.Load().Lookup(ctx, host, patience)
}

// Refresh implements handler.Resolver.
func (s *service) Refresh(ctx context.Context, host string, since time.Time, patience time.Duration) ([]netip.Addr, error) {
	return s.names.Load().Refresh(ctx, host, since, patience)
}
