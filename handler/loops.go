package handler

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/upstream"
)

// Loops finds the attempts that would make a relay its own client, also over other
// relays of this process. One Loops serves all relays of a process.
//
// A hop is a connection or session from a relay to a listener of this process. The
// relay behind that listener sees a client whose address is the local address of
// the hop. So it is known which relays a client has passed through: its chain. An
// attempt is refused if it would lead to a listener that its chain contains, or if
// its service is in the chain twice already. All other hops are allowed: one
// service may be the backend of another.
//
// An attempt on a port that the process does not listen on costs one load of a
// word.
type Loops struct {
	ports [networks][1 << 16 / 64]atomic.Uint64 // a set bit: the process listens on the port

	sameHost      atomic.Int64 // TCP relays between two addresses of one machine
	sameHostLimit int64        // of sameHost; set once

	mu        sync.Mutex // guards the fields below, and those of chains
	listeners map[listenerKey]int
	hops      map[hopKey]*chain
	dials     uint64                      // TCP dials to listeners that have begun so far; the number of the latest one
	dialling  map[netip.AddrPort][]uint64 // the numbers of those to a listener that have no result yet, in order
	dialled   chan struct{}               // closed and replaced when a dial has its result
	own       map[ownListener]bool        // listeners that refused a service's attempts on them, see chain.check
}

// listenerKey identifies a listener. The address is unspecified if the listener
// has all addresses: "::" stands for both families unless onlyIPv6 is set, "0.0.0.0"
// for IPv4.
type listenerKey struct {
	network  upstream.Network
	at       netip.AddrPort
	onlyIPv6 bool
}

// ownListener is a service and a listener that its clients come through.
type ownListener struct {
	service  string
	listener listenerKey
}

// NewLoops returns a Loops without listeners.
func NewLoops() *Loops {
	return &Loops{
		sameHostLimit: int64(netio.SameHostLimit()),
		listeners:     make(map[listenerKey]int),
		hops:          make(map[hopKey]*chain),
		dialling:      make(map[netip.AddrPort][]uint64),
		dialled:       make(chan struct{}),
		own:           make(map[ownListener]bool),
	}
}

// Listen records that the process listens on an address, until release is called.
// An address may be recorded more than once.
func (l *Loops) Listen(n upstream.Network, at netip.AddrPort) (release func()) {
	return l.listen(listenerKey{network: n, at: normal(at)})
}

// ListenIPv6 is [Loops.Listen] for a listener that has all IPv6 addresses and no
// IPv4 address.
func (l *Loops) ListenIPv6(n upstream.Network, port uint16) (release func()) {
	return l.listen(listenerKey{n, netip.AddrPortFrom(netip.IPv6Unspecified(), port), true})
}

func (l *Loops) listen(key listenerKey) (release func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listeners[key]++
	l.setPortLocked(key)
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.listeners[key]--; l.listeners[key] == 0 {
			delete(l.listeners, key)
		}
		for own := range l.own { // the next config may give the listener to another service
			if own.listener == key {
				delete(l.own, own)
			}
		}
	})
}

// setPortLocked sets the bit of a port. It stays set when the listener is closed:
// that costs attempts on the port a search in listeners.
func (l *Loops) setPortLocked(key listenerKey) {
	port := key.at.Port()
	l.ports[key.network][port/64].Or(1 << (port % 64))
}

// hasPort reports whether the process listens on a port, or did so before. It
// returns false for a nil Loops.
func (l *Loops) hasPort(n upstream.Network, port uint16) bool {
	return l != nil && l.ports[n][port/64].Load()&(1<<(port%64)) != 0
}

// listenerAt returns the listener of this process that a connection from this
// machine to addr leads to. local is an address that is known to be this machine's,
// or zero.
func (l *Loops) listenerAt(n upstream.Network, addr netip.AddrPort, local netip.Addr) (listenerKey, bool) {
	addr = normal(addr)
	ip := addr.Addr()
	if ip != local && !netio.IsLocalAddr(ip) {
		return listenerKey{}, false
	}
	if ip.IsUnspecified() {
		ip = loopback(ip) // the kernel connects to that
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	key := listenerKey{network: n, at: netip.AddrPortFrom(ip, addr.Port())}
	if l.listeners[key] > 0 {
		return key, true
	}
	all := listenerKey{n, netip.AddrPortFrom(netip.IPv6Unspecified(), addr.Port()), true}
	if ip.Is4() {
		all = listenerKey{network: n, at: netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port())}
	}
	if l.listeners[all] > 0 {
		return all, true
	}
	both := listenerKey{network: n, at: netip.AddrPortFrom(netip.IPv6Unspecified(), addr.Port())}
	return both, l.listeners[both] > 0
}

// loopback returns the loopback address of the family of ip.
func loopback(ip netip.Addr) netip.Addr {
	if ip.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// withoutOwn returns the addresses of a backend without those that were found to be
// the service's own listeners. It returns an error if none remains. It is for
// attempts without a client, which have no chain that could be checked.
func (r *Relay) withoutOwn(n upstream.Network, addrs []netip.Addr, port uint16) ([]netip.Addr, error) {
	loops := r.opts.Loops
	if !loops.hasPort(n, port) {
		return addrs, nil
	}
	var err error
	kept := slices.DeleteFunc(slices.Clone(addrs), func(addr netip.Addr) bool {
		to, own := loops.listenerAt(n, netip.AddrPortFrom(addr, port), netip.Addr{})
		if own = own && loops.isOwn(r.service.Name, to); own {
			err = &loopError{r.service.Name, to.at}
		}
		return own
	})
	if len(kept) > 0 {
		err = nil
	}
	return kept, err
}

// isOwn reports whether a listener was found to be the service's own.
func (l *Loops) isOwn(service string, to listenerKey) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.own[ownListener{service, to}]
}

// normal returns the form of an address that is compared: IPv4-mapped addresses are
// unmapped and have no zone.
func normal(addr netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(addr.Addr().Unmap().WithZone(""), addr.Port())
}
