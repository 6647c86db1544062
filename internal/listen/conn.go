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

// Conn is one client of a UDP socket, as a net.Conn for whoever reads it: one
// datagram a Read, or the rest of one that did not fit. A relay takes it over
// instead ([Conn.Take]) and is given its datagrams from then on, on the
// socket's own goroutine.
type Conn struct {
	socket *udpSocket
	key    key
	back   path                  // to the client, from key.local
	names  atomic.Pointer[names] // what LocalAddr and RemoteAddr give; nil: to be made
	used   atomic.Int64          // when a datagram last went either way, see now

	mu     sync.Mutex     // guards what follows
	*inbox                // nil once Take has emptied it
	sink   func([][]byte) // where datagrams go from then on
	taken  bool
	closed bool
}

// inbox is what a client needs while somebody reads it, or may. It is guarded
// by Conn.mu.
type inbox struct {
	queue    [][]byte  // datagrams from the client: first those read already and kept, then those not
	next     int       // the first one in queue not yet read to its end
	offset   int       // how much of it is
	kept     int       // bytes of those read to their end
	unread   int       // bytes of those that are not
	deadline time.Time // of Read; zero: none
	readers  int       // who wait in Read
	more     sync.Cond // something to read, closed, taken, or another deadline
	alarm    *time.Timer
}

// names are the ends of a client in the form of package net. Matchers ask for
// them again and again; once the client is taken over hardly anybody does.
type names struct{ local, remote *net.UDPAddr }

func newConn(u *udpSocket, k key) *Conn {
	c := &Conn{socket: u, key: k, back: u.pathTo(k), inbox: new(inbox)}
	c.more.L = &c.mu
	c.touch()
	return c
}

// now is a clock that nobody sets.
func now() time.Duration { return time.Since(beginning) }

var beginning = time.Now()

func (c *Conn) touch()                 { c.used.Store(int64(now())) }
func (c *Conn) idleFor() time.Duration { return now() - time.Duration(c.used.Load()) }

// Client is the client's address, as part of the key of a session.
func (c *Conn) Client() netip.AddrPort { return c.key.client }

// Local is the address of ours that the client sends to, as the other part.
func (c *Conn) Local() netip.AddrPort {
	if c.key.local.IsValid() {
		return netip.AddrPortFrom(c.key.local, c.socket.at.Port())
	}
	return c.socket.at
}

// Read implements net.Conn. An empty datagram reads as nothing. After Close,
// or Take, there is nothing more.
func (c *Conn) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed || c.taken:
			return 0, io.EOF
		case c.lateLocked():
			return 0, os.ErrDeadlineExceeded
		case c.next < len(c.queue):
			return c.read(b), nil
		}
		in := c.inbox // Take may put it away meanwhile
		in.readers++
		c.armLocked()
		in.more.Wait()
		in.readers--
	}
}

// Write implements net.Conn: it sends one datagram to the client, from the
// address that the client sent to. It does not wait: one that finds no room is
// lost, as it might be further on.
func (c *Conn) Write(b []byte) (int, error) {
	c.touch()
	if err := c.send1(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Reply sends datagrams to the client as Write does, those of them that can be
// sent. The error is that of the last that could not.
func (c *Conn) Reply(datagrams [][]byte) error { return c.send(datagrams) }

// Close implements net.Conn. The client's next datagram makes another Conn.
// After Take it does nothing: whoever accepted the client is through with it,
// and whoever took it is not.
func (c *Conn) Close() error {
	c.endIf(func() bool { return !c.taken })
	return nil
}

// End ends the client, taken or not. Its next datagram makes another Conn.
func (c *Conn) End() {
	c.endIf(func() bool { return true })
}

// expire ends a client that nobody has taken over and nobody hears of. One
// that was taken has an idle timeout of its own.
func (c *Conn) expire() {
	c.endIf(func() bool { return !c.taken && c.idleFor() > idleTimeout })
}

// endIf asks under the lock, because Take or a datagram may come in between.
func (c *Conn) endIf(may func() bool) {
	c.mu.Lock()
	if c.closed || !may() {
		c.mu.Unlock()
		return
	}
	c.closed = true
	if c.inbox != nil {
		c.clear()
		c.stopAlarm()
		c.more.Broadcast()
	}
	taken := c.taken
	c.mu.Unlock()
	c.socket.remove(c, taken)
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.ends().local }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.ends().remote }

func (c *Conn) ends() *names {
	n := c.names.Load()
	if n == nil {
		n = &names{local: net.UDPAddrFromAddrPort(c.Local()), remote: net.UDPAddrFromAddrPort(c.key.client)}
		c.names.Store(n)
	}
	return n
}

// SetDeadline implements net.Conn. Writes do not wait and have no deadline.
func (c *Conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn. A timer runs only while somebody reads:
// layer4's routes set and clear a deadline for each client.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.taken {
		return nil
	}
	c.stopAlarm()
	c.deadline = t
	if c.readers > 0 {
		c.armLocked()
		c.more.Broadcast()
	}
	return nil
}

func (c *Conn) lateLocked() bool {
	return !c.deadline.IsZero() && !time.Now().Before(c.deadline)
}

// armLocked has those who read woken at the deadline, if there is one.
func (c *Conn) armLocked() {
	if c.deadline.IsZero() || c.alarm != nil {
		return
	}
	in := c.inbox
	in.alarm = time.AfterFunc(time.Until(c.deadline), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		in.more.Broadcast()
	})
}

func (c *Conn) stopAlarm() {
	if c.alarm != nil {
		c.alarm.Stop()
		c.alarm = nil
	}
}
