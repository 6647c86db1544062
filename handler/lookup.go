package handler

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// lookup selects how an attempt gets the addresses of its backend.
type lookup uint8

const (
	cached    lookup = iota // from the cache
	afresh                  // by a new query: the attempt follows a strike
	ifChanged               // by a new query; the attempt is made only if the addresses changed
)

// known returns the addresses of a backend if they are available without
// waiting.
func (r *Relay) known(b *upstream.Backend) ([]netip.Addr, bool) {
	if addrs := b.Literal(); addrs != nil {
		return addrs, true
	}
	return r.opts.Resolver.Cached(b.Host)
}

// query is an attempt's request to the resolver.
type query struct {
	how   lookup
	tried []netip.Addr // addresses that the previous attempt failed on
	since time.Time    // when that attempt began to dial; a younger answer counts as new
}

// errUnchanged is returned by an ifChanged query that found the same addresses.
var errUnchanged = errors.New("addresses unchanged")

// ErrReplaced is returned by a [Resolver] for a backend that stands for others, which
// have taken its place in the queue. The attempt is not counted, and the client
// continues with the next backend.
var ErrReplaced = errors.New("backend replaced in the queue")

// errNoClientPort is the error of an attempt on a backend that has the port of each client,
// for a client that addressed none: it came through a Unix socket, or its PROXY protocol
// header has port 0.
var errNoClientPort = errors.New("the client addressed no port, which is that of the backend: list the backend with a port")

// notMade reports whether err means that no attempt was made on the backend.
func notMade(err error) bool {
	return errors.Is(err, errUnchanged) || errors.Is(err, ErrReplaced) || errors.Is(err, errNoClientPort)
}

// resolve returns the addresses of a backend in the order to try them.
func (r *Relay) resolve(ctx context.Context, b *upstream.Backend, n upstream.Network, q query) (addrs []netip.Addr, err error) {
	if addrs := b.Literal(); addrs != nil {
		return q.choose(addrs, b, n)
	}
	if addrs, err = r.lookUp(ctx, b.Host, q); err != nil {
		return nil, err
	}
	return q.choose(addrs, b, n)
}

// lookUp returns the addresses of a host, in the order of the resolver.
func (r *Relay) lookUp(ctx context.Context, host string, q query) ([]netip.Addr, error) {
	if q.how == cached {
		return r.opts.Resolver.Lookup(ctx, host, r.patience())
	}
	return r.opts.Resolver.Refresh(ctx, host, q.since, r.patience())
}

// sharedHow returns how, with the same value for all queries that the resolver
// answers in the same way.
func (q query) sharedHow() lookup {
	if q.how == ifChanged {
		return afresh
	}
	return q.how
}

// choose returns addrs with the address that succeeded last in front. If the
// query is ifChanged and addrs are the ones tried before, it also returns
// errUnchanged.
func (q query) choose(addrs []netip.Addr, b *upstream.Backend, n upstream.Network) ([]netip.Addr, error) {
	addrs = preferredFirst(addrs, b.Preferred(n))
	if q.how == ifChanged && sameSet(addrs, q.tried) {
		return addrs, errUnchanged
	}
	return addrs, nil
}

// preferredFirst returns addrs with want moved to the front. It does not modify
// addrs, and returns it as it is if want is not in it.
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

// sameSet reports whether a and b hold the same addresses in any order.
func sameSet(a, b []netip.Addr) bool {
	notIn := func(list []netip.Addr) func(netip.Addr) bool {
		return func(addr netip.Addr) bool { return !slices.Contains(list, addr) }
	}
	return !slices.ContainsFunc(a, notIn(b)) && !slices.ContainsFunc(b, notIn(a))
}
