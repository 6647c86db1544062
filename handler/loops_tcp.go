package handler

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file keeps TCP relays from being their own clients: over this process by
// [Loops], and over other programs by a limit.

// errSameHost is the error of an attempt that was refused by a limit of clients on
// the backend's machine.
var errSameHost = errors.New("too many clients from the backend's address")

// socketAddrs are the addresses of a client's socket. Those of its connection may
// be others, which a PROXY protocol header has set.
type socketAddrs struct{ client, local netip.AddrPort }

// origin holds what is known of the socket of a relay's client.
type origin struct {
	socketAddrs
	chain *chain // nil until needed
}

// mayLoop reports whether a dial to one of the addresses leads to this process, or
// may be refused by the limit of clients on the backend's machine. Such dials are
// made by [attempts.dial].
func (t *tcpRelay) mayLoop(port uint16, addrs []netip.Addr) bool {
	loops := t.relay.opts.Loops
	if loops == nil {
		return false
	}
	full := t.relay.sameHostFull()
	if !full && !loops.hasPort(upstream.TCP, port) {
		return false
	}
	return slices.ContainsFunc(addrs, func(addr netip.Addr) bool {
		_, own := loops.listenerAt(upstream.TCP, netip.AddrPortFrom(addr, port), t.socketAddrs().local.Addr())
		return own || full && sameHost(t.socketAddrs().client.Addr(), addr)
	})
}

// socketAddrs returns the addresses of the client's socket.
func (t *tcpRelay) socketAddrs() socketAddrs {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.socketAddrsLocked()
}

func (t *tcpRelay) socketAddrsLocked() socketAddrs {
	if t.origin != nil {
		return t.origin.socketAddrs
	}
	return socketAddrs{addrPortOf(t.client), addrPortOf(t.local)}
}

// dialer returns what connects to a port of backends.
func (t *attempts) dialer(port uint16) dial.Dialer {
	d := t.relay.dialer()
	if loops := t.relay.opts.Loops; loops.hasPort(upstream.TCP, port) || t.relay.sameHostFull() {
		d.Around = t.dial
	}
	return d
}

// dial connects to an address unless that would close a loop or exceed the limit
// of clients on the backend's machine.
func (t *attempts) dial(ctx context.Context, addr netip.AddrPort, connect dial.Func) (conn net.Conn, err error) {
	r, loops := t.relay, t.relay.opts.Loops
	from := t.of.socketAddrs()
	if r.sameHostFull() && sameHost(from.client.Addr(), addr.Addr()) {
		r.service.floods.note(r.log, sameHostTCP, zap.Stringer("network", upstream.TCP), zap.Stringer("client", t.of.client), zap.Stringer("address", addr))
		return nil, dial.Failed(addr, errSameHost)
	}
	to, own := loops.listenerAt(upstream.TCP, addr, from.local.Addr())
	if !own {
		return connect(ctx, addr)
	}
	chain := t.of.chain(ctx)
	if err := chain.check(to); err != nil {
		r.noteLoop(upstream.TCP, t.of.client.String(), addr, err)
		return nil, dial.Failed(addr, err)
	}
	err = chain.dial(to, func() (local, remote netip.AddrPort, err error) {
		if conn, err = connect(ctx, addr); err != nil {
			return local, remote, err
		}
		return addrPortOf(conn.LocalAddr()), addrPortOf(conn.RemoteAddr()), nil
	})
	return conn, err
}

// chain returns the chain of the relay.
func (t *tcpRelay) chain(ctx context.Context) *chain {
	t.mu.Lock()
	if t.origin == nil {
		t.origin = &origin{socketAddrs: t.socketAddrsLocked()}
	}
	o := t.origin
	known := o.chain
	t.mu.Unlock()
	if known != nil {
		return known
	}
	found := t.relay.opts.Loops.chainOf(ctx, upstream.TCP, t.relay.service.Name, o.socketAddrs)
	t.mu.Lock()
	defer t.mu.Unlock()
	if o.chain == nil { // another attempt may have been faster
		o.chain = found
		if t.ended {
			found.leave()
		}
	}
	return o.chain
}

// noteLoop logs an attempt that was refused because it would close a loop.
func (r *Relay) noteLoop(n upstream.Network, client string, addr netip.AddrPort, err error) {
	r.service.floods.note(r.log, looped, zap.Stringer("network", n), zap.String("client", client), zap.Stringer("address", addr), zap.Error(err))
}

// A relay over another program can be its own client too, and nothing shows it but
// that the client has the address of the backend's machine. Such clients are
// served, because a client may well be next to its backend, but only up to a share
// of the descriptors. When a loop reaches the limit, its last connection is
// refused, and all its connections end one after the other. [unansweredLimit] is
// what UDP has.

// sameHost reports whether two addresses are those of one machine, as far as they
// show it.
func sameHost(one, other netip.Addr) bool {
	return one.Unmap() == other.Unmap() || netio.IsLocalAddr(other) && netio.IsLocalAddr(one)
}

// sameHostShare is the part of the limit, as its divisor, that a service may always
// use: a loop of one service refuses no client of another.
const sameHostShare = 8

// sameHostFull reports whether the limit of TCP relays between addresses of one
// machine is reached, or few descriptors are left because much else is open, and the
// service has more than its share of the limit. It returns false if loops are not
// found.
func (r *Relay) sameHostFull() bool {
	l := r.opts.Loops
	return l != nil && (l.sameHost.Load() >= l.sameHostLimit || netio.Scarce()) && r.service.sameHost.Load() >= l.sameHostLimit/sameHostShare
}

// countSameHost counts the relay if its client is on the backend's machine. addr is
// that of the backend, to which it has a connection.
func (t *tcpRelay) countSameHost(addr netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.countSameHostLocked(addr)
}

// countSameHostLocked is countSameHost under mu. A connection to a listener of this
// process counts twice, because its other side has descriptors of this process too.
func (t *tcpRelay) countSameHostLocked(addr netip.AddrPort) {
	loops := t.relay.opts.Loops
	if loops == nil || t.sameHost > 0 || t.ended {
		return
	}
	socket := t.socketAddrsLocked()
	if !sameHost(socket.client.Addr(), addr.Addr()) {
		return
	}
	t.sameHost = 1
	if loops.hasPort(upstream.TCP, addr.Port()) {
		if _, own := loops.listenerAt(upstream.TCP, addr, socket.local.Addr()); own {
			t.sameHost = 2
		}
	}
	loops.sameHost.Add(int64(t.sameHost))
	t.relay.service.sameHost.Add(int64(t.sameHost))
}

// leaveLoopsLocked removes a relay that has ended from its process's [Loops].
func (t *tcpRelay) leaveLoopsLocked() {
	if t.sameHost > 0 {
		t.relay.opts.Loops.sameHost.Add(-int64(t.sameHost))
		t.relay.service.sameHost.Add(-int64(t.sameHost))
	}
	if t.origin != nil && t.origin.chain != nil {
		t.origin.chain.leave()
	}
}

// addrPortOf returns the address and port of addr; invalid if it has none.
func addrPortOf(addr net.Addr) netip.AddrPort {
	if tcp, ok := addr.(*net.TCPAddr); ok {
		return normal(tcp.AddrPort())
	}
	ap, _ := netip.ParseAddrPort(addr.String())
	return normal(ap)
}
