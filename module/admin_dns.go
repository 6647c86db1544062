package module

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/resolver"
)

// dnsView is a name in a DNS cache. Services that differ in dns_ttl or
// resolvers have caches of their own.
type dnsView struct {
	Host      string    `json:"host"`
	Source    string    `json:"source"` // fresh; stale: old, and asked anew at the next use; none: it never resolved
	Addresses []string  `json:"addresses"`
	Resolved  time.Time `json:"resolved_at,omitzero"`
	Age       float64   `json:"age_seconds"`
	TTLLeft   float64   `json:"ttl_left_seconds"`
	Error     string    `json:"error,omitempty"` // of the last query, if it failed
	TTL       float64   `json:"ttl_seconds"`
	Resolvers []string  `json:"resolvers,omitempty"` // none: the system's
}

// eachCache hands out the DNS caches in the order of their settings.
func eachCache(f func(*resolver.Cache)) {
	byKey := make(map[string]*resolver.Cache)
	var keys []string
	caches.Range(func(key, value any) bool {
		byKey[key.(string)] = value.(cache).Cache
		keys = append(keys, key.(string))
		return true
	})
	slices.Sort(keys)
	for _, key := range keys {
		f(byKey[key])
	}
}

func getDNS(*http.Request) (any, error) {
	now := time.Now()
	views := []dnsView{}
	eachCache(func(c *resolver.Cache) {
		for _, entry := range c.Entries() {
			views = append(views, viewName(entry, c, now))
		}
	})
	slices.SortStableFunc(views, func(a, b dnsView) int { return cmp.Compare(a.Host, b.Host) })
	return views, nil
}

func viewName(entry resolver.Entry, c *resolver.Cache, now time.Time) dnsView {
	v := dnsView{Host: entry.Host, Source: "fresh", Addresses: []string{}, Resolved: entry.ResolvedAt, TTL: c.TTL().Seconds()}
	for _, addr := range entry.Addrs {
		v.Addresses = append(v.Addresses, addr.String())
	}
	switch {
	case len(entry.Addrs) == 0:
		v.Source = "none"
	case entry.Stale:
		v.Source = "stale"
	default:
		v.TTLLeft = seconds(entry.ExpiresAt.Sub(now))
	}
	if !entry.ResolvedAt.IsZero() {
		v.Age = seconds(now.Sub(entry.ResolvedAt))
	}
	if entry.Err != nil {
		v.Error = entry.Err.Error()
	}
	for _, server := range c.Servers() {
		v.Resolvers = append(v.Resolvers, server.String())
	}
	return v
}

// seconds are rounded to a thousandth, and never negative: a moment may pass
// between two looks at the clock.
func seconds(d time.Duration) float64 { return milliseconds(max(d, 0)) / 1e3 }

// flushView says how many names are asked anew at their next use.
type flushView struct {
	Flushed int `json:"flushed"`
}

func postFlush(r *http.Request) (any, error) {
	host := r.URL.Query().Get("host")
	var v flushView
	eachCache(func(c *resolver.Cache) { v.Flushed += c.Flush(host) })
	tellOperation(r, "flush", zap.String("host", host), zap.Int("names", v.Flushed))
	return v, nil
}
