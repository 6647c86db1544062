package module

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/dnsclient"
	"github.com/async-relay/caddy-relay/resolver"
)

// caches holds the DNS caches across reloads, one for each combination of dns_ttl,
// resolvers, prefer and only.
var caches = caddy.NewUsagePool()

// cache is a DNS cache in caches, and the client that queries for it. It closes when
// its last user releases it.
type cache struct {
	*resolver.Cache
	client   *dnsclient.Client
	lifetime resolver.Lifetime
	servers  []string // as the admin API shows them; empty: the system's
	origin   string   // what its answers depend on, see dnsOrigin
}

// newCache returns the DNS cache for the options.
func newCache(opts caddyfile.Options, key string) *cache {
	c := &cache{client: newDNSClient(opts), lifetime: resolver.Lifetime(opts.DNSTTL)}
	for _, r := range opts.Resolvers {
		c.servers = append(c.servers, r.Text)
	}
	c.origin = dnsOrigin(c.servers, opts.Prefer, opts.Only)
	c.Cache = resolver.New(resolver.Config{Lifetime: c.lifetime, Lookup: c.lookUpAddrs, Observer: dnsLog{key}, Counts: &collected.lookups})
	return c
}

// newDNSClient returns the client for the options.
func newDNSClient(opts caddyfile.Options) *dnsclient.Client {
	cfg := dnsclient.Config{Families: preferred[opts.Prefer]}
	if opts.Only != "" {
		cfg.Families = only[opts.Only]
	}
	for _, r := range opts.Resolvers {
		server := dnsclient.Server{Addr: r.Addr, TLSName: r.TLSName, URL: r.URL}
		switch r.Scheme {
		case "tls":
			server.Protocol = dnsclient.TLS
		case "https":
			server.Protocol = dnsclient.HTTPS
		}
		cfg.Servers = append(cfg.Servers, server)
	}
	return dnsclient.New(cfg)
}

// The meanings of the options prefer and only.
var (
	preferred = map[string]dnsclient.Families{"": dnsclient.Both, "ipv4": dnsclient.PreferIPv4, "ipv6": dnsclient.PreferIPv6}
	only      = map[string]dnsclient.Families{"ipv4": dnsclient.OnlyIPv4, "ipv6": dnsclient.OnlyIPv6}
)

// lookUpAddrs is the Lookup of the cache.
func (c *cache) lookUpAddrs(ctx context.Context, host string) (resolver.Result, error) {
	a, err := c.client.Addrs(ctx, host)
	return resolver.Result{Addrs: a.List, TTL: a.TTL, Partial: a.Partial}, err
}

// Destruct implements caddy.Destructor.
func (c *cache) Destruct() error {
	c.Close()
	c.client.Close()
	return nil
}

// cacheRef is a handler's reference to a DNS cache. As long as it is held, the
// cache keeps the handler's hosts fresh.
type cacheRef struct {
	cache *cache
	key   string // in caches
	hosts []string
}

// loadCache finds or creates the cache for the options. The caller must release
// the reference.
func loadCache(opts caddyfile.Options) (*cacheRef, error) {
	ref := &cacheRef{key: fmt.Sprint(opts.DNSTTL, opts.Resolvers, opts.Prefer, opts.Only)}
	value, _, err := caches.LoadOrNew(ref.key, func() (caddy.Destructor, error) { return newCache(opts, ref.key), nil })
	if err != nil {
		return nil, err
	}
	ref.cache = value.(*cache)
	for _, b := range opts.Backends {
		if !b.Addr.IsValid() && b.SRV == "" {
			ref.hosts = append(ref.hosts, b.Host)
		}
	}
	ref.cache.Hold(ref.hosts...)
	return ref, nil
}

func (ref *cacheRef) release() {
	ref.cache.Release(ref.hosts...)
	_, _ = caches.Delete(ref.key)
}

// Cached implements handler.Resolver, like Lookup and Refresh below. They use
// the DNS cache of the current settings, also for relays that began under older
// settings.
func (s *service) Cached(host string) ([]netip.Addr, bool) {
	answer, ok := s.dns.Load().cache.Cached(host)
	return answer.Addrs, ok
}

// Lookup implements handler.Resolver.
func (s *service) Lookup(ctx context.Context, host string, patience time.Duration) ([]netip.Addr, error) {
	if name, isSRV := strings.CutPrefix(host, srvPrefix); isSRV {
		return nil, s.awaitTargets(ctx, name)
	}
	answer, err := s.dns.Load().cache.Lookup(ctx, host, patience)
	return answer.Addrs, err
}

// Refresh implements handler.Resolver.
func (s *service) Refresh(ctx context.Context, host string, since time.Time, patience time.Duration) ([]netip.Addr, error) {
	if name, isSRV := strings.CutPrefix(host, srvPrefix); isSRV {
		return nil, s.awaitTargets(ctx, name)
	}
	s.refreshTargets() // the backend has failed, and may have been replaced
	answer, err := s.dns.Load().cache.Refresh(ctx, host, since, patience)
	return answer.Addrs, err
}

// lookUpUsedByUDP starts queries for the names of UDP sessions, unless they are
// fresh in the cache. Sessions that live long do not look their name up themselves.
func (s *service) lookUpUsedByUDP() {
	ended, end := context.WithCancel(context.Background())
	end() // the queries run without their caller
	for _, host := range s.UsedByUDP() {
		_, _ = s.Lookup(ended, host, 0)
	}
}

// dnsLog logs the results of a DNS cache.
type dnsLog struct {
	cache string // the key of the cache in caches
}

// Resolved implements resolver.Observer.
func (l dnsLog) Resolved(host string, addrs []netip.Addr) {
	processLog().Info("name resolved", zap.String("host", host), zap.Stringers("addresses", addrs))
	l.eachService(func(s *service) { s.NameResolved(host, addrs) }) // their sessions may have addresses of an earlier cache
}

// eachService calls f for all services that use the cache.
func (l dnsLog) eachService(f func(*service)) {
	services.Range(func(_, value any) bool {
		if s := value.(*service); s.dns.Load().key == l.cache {
			f(s)
		}
		return true
	})
}

// Changed implements resolver.Observer.
func (l dnsLog) Changed(host string, old, new []netip.Addr) {
	processLog().Info("addresses changed", zap.String("host", host), zap.Stringers("old", old), zap.Stringers("new", new))
	l.eachService(func(s *service) {
		s.recordAddressChange(host, old, new)
		s.NameResolved(host, new)
	})
}

// Ignored implements resolver.Observer.
func (dnsLog) Ignored(host string, unusable []netip.Addr, surplus int) {
	processLog().Warn("addresses ignored", zap.String("host", host), zap.Stringers("unusable", unusable), zap.Int("surplus", surplus))
}

// Stale implements resolver.Observer.
func (dnsLog) Stale(host string, addrs []netip.Addr, age time.Duration, err error) {
	processLog().Warn("lookup failed, keeping old addresses", zap.String("host", host), zap.Stringers("addresses", addrs), zap.Duration("age", age), zap.Error(err))
}

// Failed implements resolver.Observer.
func (dnsLog) Failed(host string, err error) {
	processLog().Warn("lookup failed", zap.String("host", host), zap.Error(err))
}

// recordAddressChange records in the journal that the addresses of a backend's
// name changed. It does nothing if no backend has that name.
func (s *service) recordAddressChange(host string, old, new []netip.Addr) {
	for _, b := range s.Pool.Snapshot(time.Now()) {
		if b.Backend.Host == host && !b.Backend.IP.IsValid() {
			s.Journal.Add(handler.Entry{Kind: handler.KindDNS, Backend: b.Backend.Text, Cause: fmt.Sprintf("%v, before %v", new, old)})
		}
	}
}

// recordFlush records in the journal that the names of backends are looked up at
// their next use. host is one name; "" means all.
func (s *service) recordFlush(host, by string) {
	for _, b := range s.Pool.Snapshot(time.Now()) {
		if !b.Backend.IP.IsValid() && (host == "" || b.Backend.Host == host) {
			s.Journal.Add(handler.Entry{Kind: handler.KindFlush, Backend: b.Backend.Text, By: by})
		}
	}
}
