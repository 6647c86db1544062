package module

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/module/memory"
	"github.com/async-relay/caddy-relay/resolver"
)

// recordKey returns the key of a service in a record. That of a service without a name
// is a hash, because its settings may contain secrets.
func (s *service) recordKey() string {
	settings, unnamed := strings.CutPrefix(s.key, "settings ")
	if !unnamed {
		return s.key
	}
	sum := sha256.Sum256([]byte(settings))
	return "settings " + hex.EncodeToString(sum[:16])
}

// runningServices returns the services that a started config has.
func runningServices() (list []*service) {
	services.Range(func(_, value any) bool {
		if s := value.(*service); s.current.Load() != nil {
			list = append(list, s)
		}
		return true
	})
	return list
}

// snapshot returns the state of services, without counters.
func snapshot(list []*service) memory.Record {
	now := time.Now()
	r := memory.Record{SavedAt: now.Round(0), Services: make(map[string]memory.Service), Names: make(map[string][]resolver.Saved)}
	type name struct{ origin, host string }
	seen := make(map[name]bool)
	for _, s := range list {
		saved := memory.Service{Queue: s.Pool.Export(now)}
		if until := s.HeldUntil(); until.After(now) {
			saved.HeldUntil = until.Round(0)
		}
		ref := s.dns.Load()
		hosts := ref.hosts
		for _, f := range s.followers() {
			known, _ := f.targets.List()
			if len(known.Targets) == 0 {
				continue
			}
			if saved.Targets == nil {
				saved.Targets = make(map[string]memory.Targets)
			}
			saved.Targets[f.name] = savedTargets(known)
			hosts = append(slices.Clip(hosts), hostsOf(known.Targets)...)
		}
		if !saved.IsZero() {
			r.Services[s.recordKey()] = saved
		}
		for _, host := range hosts {
			key := name{ref.cache.origin, host}
			if e, ok := ref.cache.Entry(host); ok && len(e.Addrs) > 0 && !seen[key] {
				seen[key] = true
				r.Names[key.origin] = append(r.Names[key.origin], resolver.Saved{
					Host: e.Host, Addrs: e.Addrs, ResolvedAt: e.ResolvedAt.Round(0), ExpiresAt: e.ExpiresAt.Round(0),
				})
			}
		}
	}
	for _, answers := range r.Names {
		slices.SortFunc(answers, func(a, b resolver.Saved) int { return cmp.Compare(a.Host, b.Host) })
	}
	return r
}

func savedTargets(list resolver.TargetList) memory.Targets {
	saved := memory.Targets{ResolvedAt: list.ResolvedAt.Round(0), ExpiresAt: list.ExpiresAt.Round(0)}
	for _, t := range list.Targets {
		saved.List = append(saved.List, memory.Target(t))
	}
	return saved
}

func targetList(saved memory.Targets) resolver.TargetList {
	list := resolver.TargetList{ResolvedAt: saved.ResolvedAt, ExpiresAt: saved.ExpiresAt}
	for _, t := range saved.List {
		list.Targets = append(list.Targets, resolver.Target(t))
	}
	return list
}

// countsOf returns the counters of services, and those of the process.
func countsOf(list []*service) *memory.Counts {
	now := time.Now()
	counts := &memory.Counts{
		Services: make(map[string]handler.SavedCounts),
		Series:   collected.ledger.beyond(list, now),
		Lookups:  memory.Lookups{OK: collected.lookups.OK.Load(), Stale: collected.lookups.Stale.Load(), Failed: collected.lookups.Failed.Load()},
	}
	for _, s := range list {
		counts.Services[s.recordKey()] = s.SaveCounts(now)
	}
	return counts
}

// beyond returns what the totals have in addition to the counters of services: those of
// backends and services that have left.
func (l *ledger) beyond(services []*service, now time.Time) (rests []memory.Series) {
	l.mu.Lock()
	defer l.mu.Unlock()
	counted := make(map[series]figures)
	for _, s := range services {
		var r reading
		if l.last[s] != nil {
			r = l.recordLocked(s, now, onlyAboveZero)
		} else {
			r = s.readMetrics(now, onlyAboveZero) // its service has ended, and was recorded then
		}
		for key, f := range r.counters {
			if counted[key] == nil {
				counted[key] = make(figures, len(f))
			}
			for i := range f {
				counted[key][i] += f[i]
			}
		}
	}
	for key, t := range l.totals {
		rest := slices.Clone(t.figures)
		for i, count := range counted[key] {
			rest[i] -= min(count, rest[i])
		}
		if !rest.zero() {
			rests = append(rests, memory.Series{Metric: metrics[key.metric].name, Labels: key.values(), Figures: rest})
		}
	}
	slices.SortFunc(rests, func(a, b memory.Series) int {
		return cmp.Or(cmp.Compare(a.Metric, b.Metric), slices.Compare(a.Labels, b.Labels))
	})
	return rests
}

// adopt gives the counters of an earlier process to a service: add adds them. They
// become part of the totals once: if a service of that key has adopted them before, in
// a config that was rejected, the totals have them already.
func (l *ledger) adopt(s *service, add func(), now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.adopted[s.key] {
		l.recordLocked(s, now, onlyAboveZero)
		add()
		last := make(map[series]figures)
		for key, f := range s.readMetrics(now, onlyAboveZero).counters {
			if !f.zero() {
				last[key] = f
			}
		}
		l.last[s] = last
		return
	}
	l.adopted[s.key] = true
	add()
	l.recordLocked(s, now, onlyAboveZero)
}

// addSeries adds what beyond has returned in an earlier process. Only its first call
// has an effect, which it reports.
func (l *ledger) addSeries(list []memory.Series, now time.Time) (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.added {
		return false
	}
	l.added = true
	for _, saved := range list {
		m := slices.Index(metricNames(), saved.Metric)
		if m < 0 || len(saved.Labels) != len(metrics[m].labels) || len(saved.Figures) != metric(m).figures() {
			continue // of another version
		}
		key := newSeries(metric(m), saved.Labels...)
		if l.totals[key] == nil {
			l.totals[key] = &total{figures: make(figures, len(saved.Figures))}
		}
		l.totals[key].recorded = now
		l.totals[key].add(saved.Figures, nil)
	}
	return true
}

// metricNames returns the names of metrics, by their numbers.
func metricNames() []string {
	names := make([]string, len(metrics))
	for i, m := range metrics {
		names[i] = m.name
	}
	return names
}

// dnsOrigin describes what the answers of a cache depend on.
func dnsOrigin(servers []string, prefer, only string) string {
	if len(servers) == 0 {
		servers = []string{"system"}
	}
	return strings.TrimSpace(fmt.Sprint(strings.Join(servers, " "), " ", prefer, only))
}
