package listen

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	// maxUntaken is how many clients of a socket may be on their way through
	// the routes, or with a handler that reads them itself.
	maxUntaken = 16384
	// idleTimeout ends a client that nobody has taken over and nobody hears of.
	idleTimeout = 5 * time.Minute
	// socketBuffer is asked for in either direction.
	socketBuffer = 4 << 20
	// maxFresh is how many clients that are new in one batch of datagrams are
	// taken at once. Each costs some ten times what a datagram of an old one
	// does, and the old ones must not wait for a flood of them.
	maxFresh = 16
)

// key tells the clients of a socket apart: who sent, and to which of our
// addresses (the zero Addr unless the socket has several).
type key struct {
	client netip.AddrPort
	local  netip.Addr
}

// udpSocket is one kernel socket and its clients. Its one goroutine reads it,
// and never waits for a client or for whoever serves it.
type udpSocket struct {
	sockets *Sockets
	at      netip.AddrPort
	conn    *net.UDPConn
	several bool   // bound to a wildcard: which address a datagram came to must be asked
	sender  sender // back to clients

	users     int // listeners and clients; guarded by Sockets.mu
	listeners listeners[*UDPListener]
	closed    chan struct{}
	waiting   atomic.Int64 // bytes in the queues of all clients
	fresh     int          // clients taken of the batch at hand; the reading goroutine's own

	mu      sync.Mutex // guards what follows
	clients map[key]*Conn
	untaken int
}

func newUDPSocket(s *Sockets, at netip.AddrPort, conn *net.UDPConn) *udpSocket {
	u := &udpSocket{sockets: s, at: at, conn: conn, closed: make(chan struct{}), clients: make(map[key]*Conn)}
	u.several = at.Addr().IsUnspecified() && askLocal(conn) == nil
	u.sender.init(conn)
	return u
}

// tellLimits says what keeps bursts from being waited for: what finds no room
// is lost before anybody can count it.
func (u *udpSocket) tellLimits(log *zap.Logger, receive, send int) {
	var limits []string
	if receive < socketBuffer {
		limits = append(limits, "net.core.rmem_max")
	}
	if send < socketBuffer {
		limits = append(limits, "net.core.wmem_max")
	}
	if limits != nil {
		log.Info("kernel limits socket buffer", zap.Stringer("address", u.at), zap.Int("wanted", socketBuffer),
			zap.Int("got", min(receive, send)), zap.Strings("sysctl", limits))
	}
}

// join adds a use of the socket, unless it has been closed.
func (u *udpSocket) join() bool {
	u.sockets.mu.Lock()
	defer u.sockets.mu.Unlock()
	if u.users == 0 {
		return false
	}
	u.users++
	return true
}

// leave gives up one use of the socket, and closes it with the last.
func (u *udpSocket) leave() {
	u.sockets.mu.Lock()
	defer u.sockets.mu.Unlock()
	u.users--
	if u.users == 0 {
		delete(u.sockets.udp, u.at)
		close(u.closed)
		_ = u.conn.Close()
	}
}

// trouble is how the goroutine that reads waits out errors.
func (u *udpSocket) trouble() trouble {
	return trouble{
		at: u.at, log: u.listeners.log, closed: u.closed,
		failed: "cannot read datagrams, trying on", again: "reading datagrams again",
	}
}

// deliver takes datagrams of one client, in order. It is called by the
// goroutine that reads alone, so that nobody else makes clients.
func (u *udpSocket) deliver(k key, datagrams ...[]byte) {
	u.mu.Lock()
	c := u.clients[k]
	u.mu.Unlock()
	if c != nil && c.deliver(datagrams...) {
		return
	}
	l, ok := u.listener()
	if !ok {
		return // the last config that wanted new clients here has ended
	}
	if l.opts.TakeUDP != nil && u.fresh < maxFresh {
		u.fresh++
		if c = u.take(l, k); c != nil {
			c.deliver(datagrams...)
		}
		return
	}
	if c = u.accept(l, k, len(datagrams)); c != nil {
		c.deliver(datagrams...)
		u.offer(c)
	}
}

// take makes a client that nobody accepts.
func (u *udpSocket) take(l *UDPListener, k key) *Conn {
	if !u.join() {
		return nil
	}
	c := &Conn{socket: u, key: k, back: u.pathTo(k), taken: true}
	c.sink = l.opts.TakeUDP(c)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clients[k] = c
	return c
}

// accept makes a client for so many datagrams, if there is room.
func (u *udpSocket) accept(l *UDPListener, k key, datagrams int) *Conn {
	u.mu.Lock()
	room := u.untaken < maxUntaken
	u.mu.Unlock()
	if !room || u.waiting.Load() >= maxWaiting || len(l.conns) == backlog {
		u.sockets.dropped.Add(uint64(datagrams))
		return nil
	}
	if !u.join() {
		return nil
	}
	c := newConn(u, k)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clients[k] = c
	u.untaken++
	return c
}

// offer brings a client to a listener, or ends it.
func (u *udpSocket) offer(c *Conn) {
	if l, ok := u.listener(); ok && l.offer(c) {
		return
	}
	u.sockets.dropped.Add(uint64(c.queued()))
	_ = c.Close()
}

// listener is who takes new clients: the latest config's on this socket, or,
// for a socket that lingers for its clients only, on the one that has taken
// over its address.
func (u *udpSocket) listener() (*UDPListener, bool) {
	if l, ok := u.listeners.latest(); ok {
		return l, true
	}
	u.sockets.mu.Lock()
	defer u.sockets.mu.Unlock()
	for _, wide := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if wide.Is4() && !u.at.Addr().Is4() {
			continue // it gets nothing that is sent to an IPv6 address
		}
		other := u.sockets.udp[netip.AddrPortFrom(wide, u.at.Port())]
		if other == nil {
			continue
		}
		if l, ok := other.listeners.latest(); ok {
			return l, true
		}
	}
	return nil, false
}

// leftRoutes books that a client has been taken over.
func (u *udpSocket) leftRoutes() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.untaken--
}

// remove forgets a client that has ended.
func (u *udpSocket) remove(c *Conn, taken bool) {
	u.mu.Lock()
	if u.clients[c.key] == c {
		delete(u.clients, c.key)
	}
	if !taken {
		u.untaken--
	}
	u.mu.Unlock()
	u.leave()
}

// sweep ends clients that nobody has taken over and nobody hears of, until the
// socket is closed.
func (u *udpSocket) sweep() {
	tick := time.NewTicker(idleTimeout / 10)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			u.expireIdle()
		case <-u.closed:
			return
		}
	}
}

func (u *udpSocket) expireIdle() {
	u.mu.Lock()
	var idle []*Conn
	for _, c := range u.clients {
		if c.idleFor() > idleTimeout {
			idle = append(idle, c)
		}
	}
	u.mu.Unlock()
	for _, c := range idle {
		c.expire()
	}
}
