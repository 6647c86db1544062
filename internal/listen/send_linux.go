package listen

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// replySender sends a socket's datagrams to its clients. It does not block, and
// sends many datagrams in one system call where the system can.
type replySender struct {
	socket atomic.Pointer[controller] // nil: closed before it was used
	ipv4   bool                       // the socket takes IPv4 addresses only; not changed after init
	sender netio.Sender
}

// controller is a socket that can be sent on.
type controller interface {
	// Control calls f with the descriptor, unless the socket is closed.
	Control(f func(fd uintptr)) error
}

func (s *replySender) init(conn *net.UDPConn) {
	s.ipv4 = conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Is4()
	raw, err := conn.SyscallConn()
	if err != nil {
		return // the socket is closed and will not have clients
	}
	s.use(raw)
	_ = raw.Control(func(fd uintptr) { s.sender.Init(netio.ProbeFeatures(int(fd))) })
}

func (s *replySender) use(socket controller) { s.socket.Store(&socket) }

// leavePoller makes the sender use a descriptor that Go's poller does not watch. It
// returns an error if there is none.
func (s *replySender) leavePoller() error {
	var other *netio.Unpolled
	var err error
	if failed := s.control(func(fd uintptr) { other, err = netio.NewUnpolled(fd) }); failed != nil || err != nil {
		return errors.Join(failed, err)
	}
	s.use(other)
	return nil
}

// control calls f with the descriptor, unless the socket is closed.
func (s *replySender) control(f func(fd uintptr)) error {
	if socket := s.socket.Load(); socket != nil {
		return (*socket).Control(f)
	}
	return net.ErrClosed
}

// close closes the descriptor of leavePoller, if any.
func (s *replySender) close() {
	if socket := s.socket.Load(); socket != nil {
		if unpolled, ok := (*socket).(*netio.Unpolled); ok {
			_ = unpolled.Close() // may be closed already
		}
	}
}

// reply holds the arguments and the result of one send. It is pooled so that a
// send allocates nothing.
type reply struct {
	client    *Conn
	datagrams [][]byte
	one       [1][]byte // the memory of datagrams for a single one
	err       error
	write     func(fd uintptr) // reply.writeTo, bound once
}

var replies = sync.Pool{New: func() any {
	r := new(reply)
	r.write = r.writeTo
	return r
}}

// sendOne is send for one datagram.
func (c *Conn) sendOne(datagram []byte) error {
	r := replies.Get().(*reply)
	r.one[0] = datagram
	r.datagrams = r.one[:]
	return r.send(c)
}

// send sends datagrams to the client. Those that do not fit into the socket
// buffer are dropped and counted. Those that fail otherwise are skipped; the last
// error is returned.
func (c *Conn) send(datagrams [][]byte) error {
	r := replies.Get().(*reply)
	r.datagrams = datagrams
	return r.send(c)
}

func (r *reply) send(c *Conn) error {
	r.client, r.err = c, nil
	err := c.socket.sender.control(r.write)
	if err == nil && r.err != nil {
		err = &net.OpError{Op: "write", Net: "udp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: r.err}
	}
	r.client, r.datagrams, r.one[0] = nil, nil, nil
	replies.Put(r)
	return err
}

func (r *reply) writeTo(fd uintptr) {
	c := r.client
	for unsent := r.datagrams; len(unsent) > 0; {
		sent, err := c.socket.sender.sender.SendNonblock(int(fd), &c.replyPath, unsent)
		unsent = unsent[sent:]
		switch {
		case err == nil:
		case netio.Classify(err) == netio.Exhausted:
			c.socket.sockets.dropped.Add(uint64(len(unsent)))
			return // the rest would not fit either
		default:
			r.err = err
			unsent = unsent[1:]
		}
	}
}
