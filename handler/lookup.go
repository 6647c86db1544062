package handler

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// lookup is how an attempt comes by its addresses.
type lookup uint8

const (
	cached    lookup = iota // as the cache has them
	afresh                  // after a strike: asked again
	ifChanged               // asked again, and pointless if they are the same
)

// known answers without waiting, where that is possible.
func (r *Relay) known(b *upstream.Backend) ([]netip.Addr, bool) {
	if b.IP.IsValid() {
		return []netip.Addr{b.IP}, true
	}
	return r.opts.Resolver.Cached(b.Host)
}

// query is what an attempt asks the resolver.
type query struct {
	how   lookup
	tried []netip.Addr // what the attempt before failed on
	since time.Time    // and when it began to; an answer that is younger is fresh
}

// errUnchanged is that of a lookup that was to bring other addresses and did not.
var errUnchanged = errors.New("addresses unchanged")

// resolve gives a backend's addresses in the order to try them.
func (r *Relay) resolve(ctx context.Context, b *upstream.Backend, n upstream.Network, q query) (addrs []netip.Addr, err error) {
	switch {
	case b.IP.IsValid():
		addrs = []netip.Addr{b.IP}
	case q.how == cached:
		addrs, err = r.opts.Resolver.Lookup(ctx, b.Host, r.patience())
	default:
		addrs, err = r.opts.Resolver.Refresh(ctx, b.Host, q.since, r.patience())
	}
	if err != nil {
		return nil, err
	}
	return q.choose(addrs, b, n)
}

// choose puts the address that served last in front. Where only others than
// those tried will do and there are none, they come with errUnchanged.
func (q query) choose(addrs []netip.Addr, b *upstream.Backend, n upstream.Network) ([]netip.Addr, error) {
	addrs = preferredFirst(addrs, b.Preferred(n))
	if q.how == ifChanged && sameSet(addrs, q.tried) {
		return addrs, errUnchanged
	}
	return addrs, nil
}

// preferredFirst moves want to the front, in a copy, if it is there at all.
func preferredFirst(addrs []netip.Addr, want netip.Addr) []netip.Addr {
	i := slices.Index(addrs, want)
	if i <= 0 {
		return addrs
	}
	moved := make([]netip.Addr, 0, len(addrs))
	moved = append(moved, want)
	moved = append(moved, addrs[:i]...)
	return append(moved, addrs[i+1:]...)
}

func sameSet(a, b []netip.Addr) bool {
	within := func(in []netip.Addr) func(netip.Addr) bool {
		return func(x netip.Addr) bool { return !slices.Contains(in, x) }
	}
	return !slices.ContainsFunc(a, within(b)) && !slices.ContainsFunc(b, within(a))
}
