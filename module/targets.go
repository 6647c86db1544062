package module

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/resolver"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file makes the queue of a service follow SRV records. An SRV backend whose
// targets are unknown is in the queue itself, under its own text. An attempt on it
// waits for the targets, which take its place.

// srvPrefix begins the text and the host of an SRV backend.
const srvPrefix = "srv/"

// lookUpTargets is the Lookup of resolver.Targets.
func (c *cache) lookUpTargets(ctx context.Context, name string) (targets []resolver.Target, ttl time.Duration, err error) {
	found, ttl, err := c.client.Targets(ctx, name)
	for _, t := range found {
		targets = append(targets, resolver.Target{Host: t.Host, Port: t.Port})
	}
	return targets, ttl, err
}

// follower follows the SRV records of one backend for a service. It ends when the
// settings of the service change.
type follower struct {
	service  *service
	settings *settings
	name     string
	targets  *resolver.Targets
}

// text returns the backend as configured.
func (f *follower) text() string { return srvPrefix + f.name }

// close ends the follower. The caller must not hold service.mu.
func (f *follower) close() {
	f.targets.Close()
	list, _ := f.targets.List()
	f.settings.dns.cache.Release(hostsOf(list.Targets)...)
}

// known returns the targets in the form of the queue.
func (f *follower) known() []upstream.Address {
	list, _ := f.targets.List()
	return addressesOf(list.Targets)
}

// hostsOf returns the hosts of targets.
func hostsOf(targets []resolver.Target) []string {
	hosts := make([]string, len(targets))
	for i, t := range targets {
		hosts[i] = t.Host
	}
	return hosts
}

// addressesOf returns the targets in the form of the queue. Their hosts keep the final
// dot: search domains do not apply to them.
func addressesOf(targets []resolver.Target) []upstream.Address {
	list := make([]upstream.Address, len(targets))
	for i, t := range targets {
		list[i] = upstream.Address{Text: t.String(), Host: t.Host, Port: t.Port}
	}
	return list
}

// expand returns the configured backends with the targets of SRV backends in their
// places. known returns the targets of a name; an SRV backend without targets stays
// itself. A target that is also configured, or a target of two names, is in the first
// of its places only, as configured.
func expand(backends []upstream.Address, known func(name string) []upstream.Address) []upstream.Address {
	configured := make(map[string]upstream.Address)
	for _, b := range backends {
		configured[strings.ToLower(b.Text)] = b
	}
	var list []upstream.Address
	listed := make(map[string]bool)
	add := func(a upstream.Address) {
		if !listed[a.Text] {
			listed[a.Text] = true
			list = append(list, a)
		}
	}
	for _, b := range backends {
		name, isSRV := strings.CutPrefix(b.Host, srvPrefix)
		if !isSRV {
			add(b)
			continue
		}
		targets := known(name)
		if len(targets) == 0 {
			add(b)
		}
		for _, target := range targets {
			if written, ok := configured[target.Text]; ok {
				target = written
			}
			add(target)
		}
	}
	return list
}

// addressesLocked returns the current queue as configured, with the targets of SRV
// backends.
func (s *service) addressesLocked(set *settings) []upstream.Address {
	return expand(set.addresses, func(name string) []upstream.Address {
		if f := s.follower(name); f != nil {
			return f.known()
		}
		return nil
	})
}

// follower returns the follower of an SRV name, or nil if there is none.
func (s *service) follower(name string) *follower {
	for _, f := range s.followers() {
		if f.name == name {
			return f
		}
	}
	return nil
}

// followers returns the followers of the current settings.
func (s *service) followers() []*follower {
	if list := s.following.Load(); list != nil {
		return *list
	}
	return nil
}

// restartFollowersLocked begins to follow the SRV backends of set, which is nil if no
// config has the service. Known targets stay in use. The caller must close the
// returned followers of the previous settings after unlocking.
func (s *service) restartFollowersLocked(set *settings) (ended []*follower) {
	ended = s.followers()
	var list []*follower
	if set != nil {
		for _, b := range set.addresses {
			if name, isSRV := strings.CutPrefix(b.Host, srvPrefix); isSRV {
				list = append(list, s.follow(set, name))
			}
		}
	}
	s.following.Store(&list)
	return ended
}

// follow returns a follower of an SRV name, which begins with the targets of the
// previous settings. If those had other DNS settings, it queries the name at once.
func (s *service) follow(set *settings, name string) *follower {
	f := &follower{service: s, settings: set, name: name}
	var known resolver.TargetList
	before := s.follower(name)
	if before != nil {
		known, _ = before.targets.List()
		if before.settings.dns.key != set.dns.key {
			known.ExpiresAt = time.Now()
		}
	}
	if len(known.Targets) == 0 {
		known = s.remembered[name]
	}
	set.dns.cache.Hold(hostsOf(known.Targets)...)
	f.targets = resolver.Follow(resolver.TargetsConfig{
		Name: name, Lifetime: set.dns.cache.lifetime, Lookup: set.dns.cache.lookUpTargets,
		Known: known, Observer: f, Counts: &collected.lookups,
	})
	return f
}

// Changed implements resolver.TargetsObserver: it changes the queue.
func (f *follower) Changed(old, new []resolver.Target, surplus int) {
	f.settings.dns.cache.Hold(hostsOf(new)...)
	f.settings.dns.cache.Release(hostsOf(old)...)
	collected.ledger.record(time.Now())
	s := f.service
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.follower(f.name) != f {
		return // the settings have changed
	}
	_, order := s.Pool.Update(s.addressesLocked(f.settings), f.settings.cooldown)
	s.EndRemoved("dns")
	change := diffOrder(textsOf(old), textsOf(new))
	s.Journal.Add(handler.Entry{Kind: handler.KindBackends, Backend: f.text(), Cause: change.String(), Order: order})
	fields := []zap.Field{
		zap.String("service", s.Name), zap.String("host", f.text()), zap.Strings("added", change.added),
		zap.Strings("removed", change.removed), zap.Strings("moved", change.moved), zap.Strings("order", order),
	}
	if surplus > 0 {
		fields = append(fields, zap.Int("surplus", surplus))
	}
	processLog().Info("backends changed", fields...)
}

// Stale implements resolver.TargetsObserver.
func (f *follower) Stale(targets []resolver.Target, age time.Duration, err error) {
	processLog().Warn("lookup failed, keeping old backends", zap.String("service", f.service.Name), zap.String("host", f.text()),
		zap.Strings("backends", textsOf(targets)), zap.Duration("age", age), zap.Error(err))
}

// Failed implements resolver.TargetsObserver.
func (f *follower) Failed(err error) {
	processLog().Warn("lookup failed", zap.String("host", f.text()), zap.Error(err))
}

func textsOf(targets []resolver.Target) []string {
	texts := make([]string, len(targets))
	for i, t := range targets {
		texts[i] = t.String()
	}
	return texts
}

// errNotFollowed is the error of a client that waits for the targets of an SRV backend
// after its service has left the config.
var errNotFollowed = errors.New("no config has the service")

// awaitTargets waits for the targets of an SRV backend. It returns
// [handler.ErrReplaced] when they are in the queue.
func (s *service) awaitTargets(ctx context.Context, name string) error {
	select {
	case <-s.applied:
	case <-ctx.Done():
		return fmt.Errorf("lookup %s: %w", name, context.Cause(ctx))
	}
	for {
		f := s.follower(name)
		if f == nil {
			return fmt.Errorf("lookup %s: %w", name, errNotFollowed)
		}
		err := f.targets.Wait(ctx)
		switch {
		case err == nil:
			return handler.ErrReplaced
		case ctx.Err() != nil || s.follower(name) == f:
			return err
		} // a reload has ended f
	}
}

// refreshTargets requests a query for each SRV backend, after a backend has failed.
// It does not block.
func (s *service) refreshTargets() {
	for _, f := range s.followers() {
		f.targets.Refresh()
	}
}

// orderChange describes the difference of two lists of backends.
type orderChange struct{ added, removed, moved []string }

// diffOrder compares two lists. A backend is moved if its place among the backends of
// both lists has changed.
func diffOrder(before, after []string) orderChange {
	onlyIn := func(order, other []string) (list []string) {
		for _, b := range order {
			if !slices.Contains(other, b) {
				list = append(list, b)
			}
		}
		return list
	}
	c := orderChange{added: onlyIn(after, before), removed: onlyIn(before, after)}
	common := func(order, other []string) []string {
		return slices.DeleteFunc(slices.Clone(order), func(b string) bool { return !slices.Contains(other, b) })
	}
	old, new := common(before, after), common(after, before)
	for i := range new {
		if old[i] != new[i] {
			c.moved = append(c.moved, new[i])
		}
	}
	return c
}

// String returns the change in words.
func (c orderChange) String() string {
	var parts []string
	for _, part := range []struct {
		verb string
		list []string
	}{{"added", c.added}, {"removed", c.removed}, {"moved", c.moved}} {
		if len(part.list) > 0 {
			parts = append(parts, part.verb+" "+strings.Join(part.list, ", "))
		}
	}
	return strings.Join(parts, "; ")
}
