package module

import (
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/upstream"
)

// services holds what each service keeps across reloads, by serviceKey.
var services = caddy.NewUsagePool()

// service is the state of a service, shared by the handlers of its name in
// all configs that are loaded.
type service struct {
	*handler.Service
	key string // in services

	mu      sync.Mutex    // guards inForce
	inForce []*generation // settings of configs that were started and not ended; the last one is the queue's
}

// generation is what one config wants the service's queue to be.
type generation struct {
	addresses []upstream.Address
	cooldown  time.Duration
	log       *zap.Logger
}

func newGeneration(opts caddyfile.Options, log *zap.Logger) *generation {
	g := &generation{cooldown: opts.Cooldown, log: log}
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

// loadService finds or makes the state of a service; release gives it back.
func loadService(config caddyfile.Config, g *generation) (*service, error) {
	key, err := serviceKey(config)
	if err != nil {
		return nil, err
	}
	value, _, err := services.LoadOrNew(key, func() (caddy.Destructor, error) {
		pool := upstream.NewPool(g.addresses, g.cooldown, time.Now())
		return &service{Service: handler.NewService(config.Service(), pool), key: key}, nil
	})
	if err != nil {
		return nil, err
	}
	return value.(*service), nil
}

func (s *service) release() { _, _ = services.Delete(s.key) }

// commit gives the queue the settings of a config that starts.
func (s *service) commit(g *generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inForce = append(s.inForce, g)
	s.Pool.Update(g.addresses, g.cooldown)
	if len(s.inForce) == 1 {
		g.log.Info("service started", zap.String("service", s.Name), zap.Strings("order", s.Pool.Order()))
	}
}

// retire takes the settings of a config back that has ended. If they were
// still the latest, the config was rejected half-way, and those of the one
// that goes on come back.
func (s *service) retire(g *generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.inForce, g)
	if i < 0 {
		return // never started
	}
	latest := i == len(s.inForce)-1
	s.inForce = slices.Delete(s.inForce, i, i+1)
	switch {
	case len(s.inForce) == 0:
		g.log.Info("service stopped", zap.String("service", s.Name))
	case latest:
		back := s.inForce[i-1]
		s.Pool.Update(back.addresses, back.cooldown)
	}
}

// Destruct is called when no config has the service any more. Its relays and
// sessions go on until they end by themselves.
func (s *service) Destruct() error { return nil }
