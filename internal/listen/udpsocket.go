package listen

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/takeover"
)

const (
	// maxUntaken bounds the clients of a socket that no relay has taken over: those
	// in the routes, and those of handlers that read them through net.Conn.
	maxUntaken = 16384
	// idleTimeout is the time without datagrams after which a client that was not
	// taken over ends.
	idleTimeout = 5 * time.Minute
	// sweepInterval is how often idle clients are looked for.
	sweepInterval = idleTimeout / 10
	// socketBuffer is the requested size of the receive and of the send buffer.
	socketBuffer = 4 << 20
	// maxTaken is the most new clients that are passed to TakeUDP one after the other,
	// until the queue of datagrams is empty. A new client costs about ten times as
	// much as a datagram of a known one, so a flood of new clients would delay the
	// known ones.
	maxTaken = 256
	// minTaken is how many new clients of each batch of datagrams are passed to
	// TakeUDP in any case.
	minTaken = 16
)

// key identifies a client of a socket.
type key struct {
	client netip.AddrPort
	local  netip.Addr // the address that the client sent to; zero unless udpSocket.packetInfo
}

// udpSocket is a kernel socket and its clients. It is read by a goroutine of its own or,
// if it is detached, by one that it shares with other sockets. That goroutine never
// waits for a client, a listener or a sink. After a takeover by another process, the
// datagrams of the clients come from a link instead.
type udpSocket struct {
	sockets    *Sockets
	at         netip.AddrPort
	conn       *net.UDPConn
	detached   detached // the socket instead of conn, if it has no goroutine
	packetInfo bool     // bound to a wildcard address, so datagrams come with their local address
	sender     replySender

	listeners   listeners[*UDPListener]
	closed      chan struct{} // closed when the last user has left
	released    chan struct{} // closed when the address can be bound again
	queuedBytes atomic.Int64  // unread bytes in the queues of all clients
	gate        gate
	failures    failureLog

	delivering sync.Mutex // held by calls of deliver; guards the field below
	mayTake    int        // how many more new clients may be passed to TakeUDP

	mu        sync.Mutex // guards the fields below
	users     int        // listeners, clients, and clients of other processes
	clients   map[key]*Conn
	untaken   int                    // clients that were not taken over
	elsewhere map[key]*takeover.Link // clients of older processes
	successor *takeover.Link         // to the process that reads the socket now; nil: this one

	sweeper  *time.Timer // calls sweep; nil until first needed
	sweeping bool        // sweep will be called
}

// newUDPSocket returns a socket with one user.
func newUDPSocket(s *Sockets, at netip.AddrPort, conn *net.UDPConn) *udpSocket {
	u := &udpSocket{
		sockets: s, at: at, conn: conn, users: 1,
		closed: make(chan struct{}), released: make(chan struct{}), clients: make(map[key]*Conn),
	}
	u.failures = failureLog{at: at, log: u.listeners.log, failed: "receive failed, retrying", recovered: "receiving datagrams again"}
	u.packetInfo = at.Addr().IsUnspecified() && netio.EnablePacketInfo(conn) == nil
	u.sender.init(conn)
	return u
}

// logLimits warns that the kernel capped the socket buffers. Datagrams that do not
// fit into the receive buffer are dropped by the kernel and not counted.
func (u *udpSocket) logLimits(log *zap.Logger, receive, send int) {
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

// network implements boundSocket.
func (u *udpSocket) network() string { return "udp" }

// address implements boundSocket.
func (u *udpSocket) address() netip.AddrPort { return u.at }

// control implements boundSocket.
func (u *udpSocket) control(f func(fd uintptr)) error {
	if u.detached.is() {
		return u.detached.control(f)
	}
	raw, err := u.conn.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(f)
}

// join adds a user of the socket. It returns false if the last one has left.
func (u *udpSocket) join() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.users == 0 {
		return false
	}
	u.users++
	return true
}

// leave removes a user of the socket, and closes the socket after the last one.
func (u *udpSocket) leave() {
	u.mu.Lock()
	u.users--
	last := u.users == 0
	if last && u.sweeper != nil {
		u.sweeper.Stop()
	}
	u.mu.Unlock()
	if !last {
		return
	}
	close(u.closed)
	if u.detached.is() {
		u.detached.close()
	} else {
		_ = u.conn.Close() // waits for the reading goroutine to leave its wait
	}
	u.sender.close()
	u.sockets.mu.Lock()
	delete(u.sockets.udp, u.at)
	u.sockets.mu.Unlock()
	close(u.released)
}

// start implements boundSocket.
func (u *udpSocket) start() {
	if u.detached.is() {
		u.watch()
		return
	}
	_ = u.conn.SetReadDeadline(interruption(false))
	if u.gate.open() {
		go u.gate.run(u.read) // returns when the socket is suspended or closed
	}
}

// suspend implements boundSocket.
func (u *udpSocket) suspend() {
	if u.detached.is() {
		u.detached.suspend()
		return
	}
	u.gate.suspend()
	_ = u.conn.SetReadDeadline(interruption(true))
}

// stopped implements boundSocket.
func (u *udpSocket) stopped() bool {
	if u.detached.is() {
		return u.detached.stopped()
	}
	return u.gate.stopped()
}

// backoff returns the backoff of the reading goroutine.
func (u *udpSocket) backoff() backoff { return backoff{failures: &u.failures, closed: u.closed} }

// beginBatch is called before the datagrams of a batch are delivered, with
// u.delivering held. full is true if there may be more datagrams in the socket's queue.
func (u *udpSocket) beginBatch(full bool) {
	if full {
		u.mayTake = max(u.mayTake, minTaken)
	} else {
		u.mayTake = maxTaken
	}
}

// deliver delivers datagrams of one client, in order. The caller holds u.delivering,
// so no other goroutine adds clients.
func (u *udpSocket) deliver(k key, datagrams ...[]byte) {
	u.mu.Lock()
	c, link := u.clients[k], u.elsewhere[k]
	u.mu.Unlock()
	if c != nil && c.deliver(datagrams...) {
		return
	}
	if link != nil {
		u.sockets.dropped.Add(uint64(link.Send(u.keyFor(k), datagrams...)))
		return
	}
	var declined []*UDPListener
	for {
		l, ok := u.listener(declined...)
		if !ok {
			return // no config takes new clients here any more
		}
		if l.opts.TakeUDP == nil || u.mayTake == 0 {
			if c = u.accept(l, k, len(datagrams)); c != nil {
				c.deliver(datagrams...)
				u.pass(c)
			}
			return
		}
		u.mayTake--
		if c = u.take(l, k); c == nil || c.deliver(datagrams...) {
			return
		}
		declined = append(declined, l)
	}
}

// take adds a client that is taken from the beginning.
func (u *udpSocket) take(l *UDPListener, k key) *Conn {
	if !u.join() {
		return nil
	}
	c := &Conn{socket: u, key: k, replyPath: u.pathTo(k), taken: true}
	c.sink = l.opts.TakeUDP(c)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clients[k] = c
	return c
}

// accept adds a client that begins with this number of datagrams. If there is no
// room, it counts them as dropped and returns nil.
func (u *udpSocket) accept(l *UDPListener, k key, datagrams int) *Conn {
	u.mu.Lock()
	room := u.untaken < maxUntaken
	u.mu.Unlock()
	if !room || u.queuedBytes.Load() >= maxQueuedBytes || len(l.conns) == backlog {
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
	u.sweepLaterLocked()
	return c
}

// pass passes a client to the latest listener. It ends the client if there is none
// or its queue is full.
func (u *udpSocket) pass(c *Conn) {
	if l, ok := u.listener(); ok && l.offer(c) {
		return
	}
	u.sockets.dropped.Add(uint64(c.queued()))
	_ = c.Close()
}

// listener returns the listener that gets a new client, which some listeners may
// have declined. That is the latest one on this socket. If the socket has none and
// stays open only for its clients, it is the latest one on a wildcard socket that
// covers this address.
func (u *udpSocket) listener(declined ...*UDPListener) (*UDPListener, bool) {
	if l, ok := u.listeners.latest(declined...); ok {
		return l, true
	}
	u.sockets.mu.Lock()
	defer u.sockets.mu.Unlock()
	for _, wide := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if wide.Is4() && !u.at.Addr().Is4() {
			continue // an IPv4 socket does not cover an IPv6 address
		}
		other := u.sockets.udp[netip.AddrPortFrom(wide, u.at.Port())]
		if other == nil {
			continue
		}
		if l, ok := other.listeners.latest(declined...); ok {
			return l, true
		}
	}
	return nil, false
}

// countTaken records that a client was taken over.
func (u *udpSocket) countTaken() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.untaken--
}

// remove removes an ended client.
func (u *udpSocket) remove(c *Conn, taken bool) {
	u.mu.Lock()
	if u.clients[c.key] == c {
		delete(u.clients, c.key)
	}
	if !taken {
		u.untaken--
	}
	if u.successor != nil {
		u.successor.End(u.keyFor(c.key))
	}
	u.mu.Unlock()
	u.leave()
}

// sweepLaterLocked starts the timer of sweep if there are clients that were not taken
// over.
func (u *udpSocket) sweepLaterLocked() {
	switch {
	case u.untaken == 0 || u.sweeping:
		return
	case u.sweeper == nil:
		u.sweeper = time.AfterFunc(sweepInterval, u.sweep)
	default:
		u.sweeper.Reset(sweepInterval)
	}
	u.sweeping = true
}

// sweep ends the idle clients that were not taken over.
func (u *udpSocket) sweep() {
	u.mu.Lock()
	var idle []*Conn
	for _, c := range u.clients {
		if c.idleFor() > idleTimeout {
			idle = append(idle, c)
		}
	}
	u.sweeping = false
	u.sweepLaterLocked()
	u.mu.Unlock()
	for _, c := range idle {
		c.expire()
	}
}
