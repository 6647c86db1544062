package handler

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/upstream"
)

// hopKey identifies a hop. server is zero for UDP, where the client's address is
// enough.
type hopKey struct {
	network        upstream.Network
	client, server netip.AddrPort
}

// chain is a relay, and by its parent all relays that its client has passed through
// in this process.
type chain struct {
	loops    *Loops
	service  string
	listener listenerKey // that the client came through; its address is zero if it is unknown
	parent   *chain      // the relay that is the client; nil: the client is no relay of this process
	hops     []hopKey
	left     bool // the relay has ended
}

// loopError is the error of an attempt that would close a loop.
type loopError struct {
	service  string // that the attempt leads back to
	listener netip.AddrPort
}

// Error implements error.
func (e *loopError) Error() string {
	return fmt.Sprintf("leads back to service %q, which listens on %s", e.service, e.listener)
}

// hopWait bounds how long a relay waits for the local address of the connection
// that its client may have been made by.
const hopWait = time.Second

// chainOf returns the chain of a relay whose client has a socket with the given
// addresses. For TCP it may wait for a dial of another relay that may be the
// client, until ctx ends or hopWait is over.
func (l *Loops) chainOf(ctx context.Context, n upstream.Network, service string, socket socketAddrs) *chain {
	client, local := normal(socket.client), normal(socket.local)
	c := &chain{loops: l, service: service}
	if l.hasPort(n, local.Port()) {
		var found bool
		c.listener, found = l.listenerAt(n, local, local.Addr())
		if !found && local.Addr() == netip.IPv6Unspecified() { // caddy-l4 says so of 0.0.0.0, too
			c.listener, _ = l.listenerAt(n, netip.AddrPortFrom(netip.IPv4Unspecified(), local.Port()), netip.Addr{})
		}
	}
	key := newHopKey(n, client, local)
	if n == upstream.UDP || !netio.IsLocalAddr(client.Addr()) && client.Addr() != local.Addr() {
		l.mu.Lock()
		defer l.mu.Unlock()
		c.parent = l.hops[key]
		return c
	}
	c.parent = l.awaitHop(ctx, key, c.listener.at)
	return c
}

// awaitHop returns the relay that made a hop to a listener; nil if none did. It
// waits for the dials to the listener that are in progress: one of them may have
// made the client, and later ones have not.
func (l *Loops) awaitHop(ctx context.Context, key hopKey, listener netip.AddrPort) *chain {
	ctx, cancel := context.WithTimeout(ctx, hopWait)
	defer cancel()
	var last uint64 // of the dials to wait for
	for first := true; ; first = false {
		l.mu.Lock()
		if first {
			last = l.dials
		}
		by, dialling, dialled := l.hops[key], l.dialling[listener], l.dialled
		waiting := len(dialling) > 0 && dialling[0] <= last
		l.mu.Unlock()
		if by != nil || !waiting {
			return by
		}
		select {
		case <-dialled:
		case <-ctx.Done():
			return nil
		}
	}
}

// check returns an error if a hop of the chain's relay to a listener would close a
// loop.
func (c *chain) check(to listenerKey) error {
	repeated := false
	for at := c; at != nil; at = at.parent {
		if at.listener == to {
			if at == c {
				c.loops.mu.Lock()
				c.loops.own[ownListener{c.service, to}] = true
				c.loops.mu.Unlock()
			}
			return &loopError{at.service, to.at}
		}
		repeated = repeated || at != c && at.service == c.service
	}
	if repeated {
		return &loopError{c.service, c.listener.at}
	}
	return nil
}

// dial makes a TCP hop of the chain's relay to a listener. It waits like connect.
func (c *chain) dial(to listenerKey, connect func() (local, remote netip.AddrPort, err error)) error {
	l := c.loops
	l.mu.Lock()
	l.dials++
	number := l.dials
	l.dialling[to.at] = append(l.dialling[to.at], number)
	l.mu.Unlock()
	local, remote, err := connect()
	l.mu.Lock()
	defer l.mu.Unlock()
	dialling := slices.DeleteFunc(l.dialling[to.at], func(other uint64) bool { return other == number })
	if l.dialling[to.at] = dialling; len(dialling) == 0 {
		delete(l.dialling, to.at)
	}
	if err == nil {
		c.addLocked(newHopKey(upstream.TCP, local, remote))
	}
	close(l.dialled)
	l.dialled = make(chan struct{})
	return err
}

// add records a UDP hop, which starts at a local address.
func (c *chain) add(local netip.AddrPort) {
	c.loops.mu.Lock()
	defer c.loops.mu.Unlock()
	c.addLocked(newHopKey(upstream.UDP, local, netip.AddrPort{}))
}

func (c *chain) addLocked(key hopKey) {
	if !c.left {
		c.loops.hops[key] = c
		c.hops = append(c.hops, key)
	}
}

// leave removes the hops of a relay that has ended.
func (c *chain) leave() {
	c.loops.mu.Lock()
	defer c.loops.mu.Unlock()
	c.left = true
	c.removeHopsLocked()
}

// removeHops removes the hops of a relay that may make others.
func (c *chain) removeHops() {
	c.loops.mu.Lock()
	defer c.loops.mu.Unlock()
	c.removeHopsLocked()
}

func (c *chain) removeHopsLocked() {
	for _, key := range c.hops {
		if c.loops.hops[key] == c {
			delete(c.loops.hops, key)
		}
	}
	c.hops = slices.Delete(c.hops, 0, len(c.hops))
}

func newHopKey(n upstream.Network, client, server netip.AddrPort) hopKey {
	if n == upstream.UDP {
		server = netip.AddrPort{}
	}
	return hopKey{n, normal(client), normal(server)}
}
