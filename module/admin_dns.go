package module

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/module/api"
	"github.com/async-relay/caddy-relay/resolver"
)

// dnsCaches returns all DNS caches in the order of their settings.
func dnsCaches() []*cache {
	byKey := make(map[string]*cache)
	var keys []string
	caches.Range(func(key, value any) bool {
		byKey[key.(string)] = value.(*cache)
		keys = append(keys, key.(string))
		return true
	})
	slices.Sort(keys)
	list := make([]*cache, len(keys))
	for i, key := range keys {
		list[i] = byKey[key]
	}
	return list
}

func getDNS(*http.Request) (any, error) { return apiDNS(time.Now()), nil }

func apiDNS(now time.Time) []api.DNSEntry {
	list := []api.DNSEntry{}
	for _, c := range dnsCaches() {
		for _, entry := range c.Entries() {
			list = append(list, apiDNSEntry(entry, c, now))
		}
	}
	for _, s := range visibleServices() {
		for _, f := range s.followers() {
			list = append(list, f.apiEntry(now))
		}
	}
	slices.SortStableFunc(list, func(a, b api.DNSEntry) int { return cmp.Compare(a.Host, b.Host) })
	return list
}

// apiEntry describes the SRV records that f follows, with its targets as addresses.
func (f *follower) apiEntry(now time.Time) api.DNSEntry {
	list, err := f.targets.List()
	entry := resolver.Entry{
		Host: f.text(), ResolvedAt: list.ResolvedAt, ExpiresAt: list.ExpiresAt, Stale: now.After(list.ExpiresAt),
		Lifetime: list.ExpiresAt.Sub(list.ResolvedAt), Err: err,
	}
	e := apiDNSEntry(entry, f.settings.dns.cache, now)
	if e.Addresses = textsOf(list.Targets); len(list.Targets) > 0 {
		e.Source = api.DNSFresh
		if entry.Stale {
			e.Source = api.DNSStale
		} else {
			e.TTLLeft = seconds(entry.ExpiresAt.Sub(now))
		}
	}
	return e
}

func apiDNSEntry(entry resolver.Entry, c *cache, now time.Time) api.DNSEntry {
	e := api.DNSEntry{Host: entry.Host, Source: api.DNSFresh, Addresses: []string{}, Resolved: entry.ResolvedAt, TTL: entry.Lifetime.Seconds(), Resolvers: c.servers}
	for _, addr := range entry.Addrs {
		e.Addresses = append(e.Addresses, addr.String())
	}
	switch {
	case len(entry.Addrs) == 0:
		e.Source = api.DNSNone
	case entry.Stale:
		e.Source = api.DNSStale
	default:
		e.TTLLeft = seconds(entry.ExpiresAt.Sub(now))
	}
	if !entry.ResolvedAt.IsZero() {
		e.Age = seconds(now.Sub(entry.ResolvedAt))
	}
	if entry.Err != nil {
		e.Error = entry.Err.Error()
	}
	return e
}

// seconds returns d in seconds, rounded to a microsecond. It
// returns 0 for a negative d, which the time between two readings of the clock
// can cause.
func seconds(d time.Duration) float64 { return handler.Milliseconds(max(d, 0)) / 1e3 }

func postFlush(r *http.Request) (any, error) {
	host := r.URL.Query().Get("host")
	var f api.Flush
	for _, c := range dnsCaches() {
		if host == "" {
			f.Known += len(c.Entries())
		} else if _, ok := c.Entry(host); ok {
			f.Known++
		}
		f.Flushed += c.Flush(host)
	}
	services.Range(func(_, value any) bool {
		s := value.(*service)
		s.lookUpUsedByUDP()
		for _, target := range s.followers() {
			if host == "" || host == target.name || host == target.text() {
				f.Known++
				f.Flushed++
				target.targets.Refresh()
			}
		}
		s.recordFlush(host, requester(r))
		return true
	})
	logOperation(r, "flush", zap.String("host", host), zap.Int("names", f.Flushed))
	return f, nil
}
