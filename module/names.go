package module

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/resolver"
)

// caches holds the DNS caches across reloads, one for each (ttl, resolvers).
var caches = caddy.NewUsagePool()

// cache is a DNS cache that closes with its last user.
type cache struct{ *resolver.Cache }

// Destruct implements caddy.Destructor.
func (c cache) Destruct() error {
	c.Close()
	return nil
}

// names is a handler's hold on a DNS cache.
type names struct {
	cache *resolver.Cache
	key   string   // in caches
	hosts []string // kept fresh while this is held
}

// loadNames finds or makes the cache that the options ask for.
func loadNames(opts caddyfile.Options) (*names, error) {
	n := &names{key: fmt.Sprint(opts.DNSTTL, opts.Resolvers)}
	value, _, err := caches.LoadOrNew(n.key, func() (caddy.Destructor, error) {
		return cache{resolver.New(resolver.Config{TTL: opts.DNSTTL, Servers: opts.Resolvers, Observer: dnsLog{n.key}, Counts: &collected.lookups})}, nil
	})
	if err != nil {
		return nil, err
	}
	n.cache = value.(cache).Cache
	for _, b := range opts.Backends {
		if !b.Addr.IsValid() {
			n.hosts = append(n.hosts, b.Host)
		}
	}
	n.cache.Hold(n.hosts...)
	return n, nil
}

func (n *names) release() {
	n.cache.Release(n.hosts...)
	_, _ = caches.Delete(n.key)
}

// Cached is the cache's, for the service that asks on behalf of its relays.
func (n *names) Cached(host string) ([]netip.Addr, bool) {
	answer, ok := n.cache.Cached(host)
	return answer.Addrs, ok
}

// Lookup is the cache's, as is Cached.
func (n *names) Lookup(ctx context.Context, host string, patience time.Duration) ([]netip.Addr, error) {
	answer, err := n.cache.Lookup(ctx, host, patience)
	return answer.Addrs, err
}

// Refresh is the cache's, as is Cached.
func (n *names) Refresh(ctx context.Context, host string, since time.Time, patience time.Duration) ([]netip.Addr, error) {
	answer, err := n.cache.Refresh(ctx, host, since, patience)
	return answer.Addrs, err
}

// dnsLog writes what a cache learns into the relay's log.
type dnsLog struct {
	cache string // its key in caches
}

// Resolved implements resolver.Observer.
func (dnsLog) Resolved(host string, addrs []netip.Addr) {
	processLog().Info("name resolved", zap.String("host", host), zap.Stringers("addresses", addrs))
}

// Changed implements resolver.Observer.
func (l dnsLog) Changed(host string, old, new []netip.Addr) {
	processLog().Info("name has other addresses", zap.String("host", host), zap.Stringers("old", old), zap.Stringers("new", new))
	services.Range(func(_, value any) bool {
		if s := value.(*service); s.names.Load().key == l.cache { // others ask other servers
			s.readdressed(host, old, new)
		}
		return true
	})
}

// Stale implements resolver.Observer.
func (dnsLog) Stale(host string, addrs []netip.Addr, age time.Duration, err error) {
	processLog().Warn("lookup failed, old addresses stay in use", zap.String("host", host), zap.Stringers("addresses", addrs), zap.Duration("age", age), zap.Error(err))
}

// Failed implements resolver.Observer.
func (dnsLog) Failed(host string, err error) {
	processLog().Warn("lookup failed", zap.String("host", host), zap.Error(err))
}
