package listen

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Conn is one client of a UDP socket. As a net.Conn, it returns one datagram per
// Read, or the rest of one that did not fit. A relay takes it over with
// [Conn.Take]; from then on its sink receives the datagrams, on the socket's
// reading goroutine.
type Conn struct {
	socket    *udpSocket
	key       key
	replyPath path                     // from key.local to key.client
	addrs     atomic.Pointer[udpAddrs] // for LocalAddr and RemoteAddr; nil until the first call
	lastUsed  atomic.Int64             // when a datagram last went either way, by now

	mu     sync.Mutex // guards the fields below
	*inbox            // nil once Take has emptied it
	sink   Sink       // receives the datagrams once Take has emptied the inbox
	taken  bool
	closed bool
}

// inbox holds the state of a client that can still be read. It is guarded by
// Conn.mu.
type inbox struct {
	queue    [][]byte    // datagrams from the client: those read and kept, then those unread
	next     int         // index in queue of the first datagram not read to its end
	offset   int         // bytes read of that datagram
	kept     int         // bytes of the datagrams read to their end
	unread   int         // bytes of the other datagrams
	deadline time.Time   // of Read; zero: none
	readers  int         // goroutines that wait in Read
	wake     sync.Cond   // something to read, closed, taken, or another deadline
	timer    *time.Timer // wakes the readers at the deadline; nil: not running
}

// udpAddrs holds a client's addresses in the form of package net. Matchers read
// them repeatedly. Once the client is taken over they are rarely used.
type udpAddrs struct{ local, remote *net.UDPAddr }

func newConn(u *udpSocket, k key) *Conn {
	c := &Conn{socket: u, key: k, replyPath: u.pathTo(k), inbox: new(inbox)}
	c.wake.L = &c.mu
	c.touch()
	return c
}

// now returns the time of a monotonic clock.
func now() time.Duration { return time.Since(processStart) }

var processStart = time.Now()

func (c *Conn) touch()                 { c.lastUsed.Store(int64(now())) }
func (c *Conn) idleFor() time.Duration { return now() - time.Duration(c.lastUsed.Load()) }

// Client returns the client's address.
func (c *Conn) Client() netip.AddrPort { return c.key.client }

// Local returns the local address that the client sends to. Client and Local
// together identify a session.
func (c *Conn) Local() netip.AddrPort {
	if c.key.local.IsValid() {
		return netip.AddrPortFrom(c.key.local, c.socket.at.Port())
	}
	return c.socket.at
}

// Read implements net.Conn. For an empty datagram it returns 0 and no error.
// After Close or Take it returns io.EOF.
func (c *Conn) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed || c.taken:
			return 0, io.EOF
		case c.deadlinePassedLocked():
			return 0, os.ErrDeadlineExceeded
		case c.next < len(c.queue):
			return c.readQueueLocked(b), nil
		}
		in := c.inbox // Take may set c.inbox to nil during the wait
		in.readers++
		c.startTimerLocked()
		in.wake.Wait()
		in.readers--
	}
}

// Write implements net.Conn: it sends one datagram to the client, from the
// address that the client sent to. It does not block: a datagram that does not
// fit into the socket buffer is dropped.
func (c *Conn) Write(b []byte) (int, error) {
	c.touch()
	if err := c.sendOne(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Reply sends datagrams to the client as Write does. If some cannot be sent, it
// sends the others and returns the last error.
func (c *Conn) Reply(datagrams [][]byte) error { return c.send(datagrams) }

// Close implements net.Conn. It ends the client; the client's next datagram
// begins a new Conn. After Take it does nothing: the caller of Accept closes the
// Conn, but the taker still uses it.
func (c *Conn) Close() error {
	c.endIf(func() bool { return !c.taken })
	return nil
}

// End ends the client, taken or not. Its next datagram begins a new Conn.
func (c *Conn) End() {
	c.endIf(func() bool { return true })
}

// expire ends the client if it is idle and not taken over. A taken client has an
// idle timeout of its own.
func (c *Conn) expire() {
	c.endIf(func() bool { return !c.taken && c.idleFor() > idleTimeout })
}

// endIf ends the client if condition returns true. It is called under the lock,
// so Take and new datagrams cannot come in between.
func (c *Conn) endIf(condition func() bool) {
	c.mu.Lock()
	if c.closed || !condition() {
		c.mu.Unlock()
		return
	}
	c.closed = true
	if c.inbox != nil {
		c.clearQueueLocked()
		c.stopTimerLocked()
		c.wake.Broadcast()
	}
	taken := c.taken
	c.mu.Unlock()
	c.socket.remove(c, taken)
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.netAddrs().local }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.netAddrs().remote }

func (c *Conn) netAddrs() *udpAddrs {
	a := c.addrs.Load()
	if a == nil {
		a = &udpAddrs{local: net.UDPAddrFromAddrPort(c.Local()), remote: net.UDPAddrFromAddrPort(c.key.client)}
		c.addrs.Store(a)
	}
	return a
}

// SetDeadline implements net.Conn. Writes do not block and have no deadline.
func (c *Conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn. It does nothing.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn. It starts a timer only if a Read is
// waiting, because layer4's routes set and clear a deadline for each client.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.taken {
		return nil
	}
	c.stopTimerLocked()
	c.deadline = t
	if c.readers > 0 {
		c.startTimerLocked()
		c.wake.Broadcast()
	}
	return nil
}

func (c *Conn) deadlinePassedLocked() bool {
	return !c.deadline.IsZero() && !time.Now().Before(c.deadline)
}

// startTimerLocked makes the waiting readers wake at the deadline, if there is one.
func (c *Conn) startTimerLocked() {
	if c.deadline.IsZero() || c.timer != nil {
		return
	}
	in := c.inbox
	in.timer = time.AfterFunc(time.Until(c.deadline), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		in.wake.Broadcast()
	})
}

func (c *Conn) stopTimerLocked() {
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
}
