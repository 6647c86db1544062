package listen

import (
	"net"
	"sync"
	"syscall"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// sender is how a socket answers its clients: without waiting, and many
// datagrams at once where the system can.
type sender struct {
	raw     syscall.RawConn // set once, as is ipv4
	ipv4    bool            // takes addresses of IPv4 alone
	sending netio.Sender
}

func (s *sender) init(conn *net.UDPConn) {
	s.ipv4 = conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Is4()
	raw, err := conn.SyscallConn()
	if err != nil {
		return // closed; nobody will come by it
	}
	s.raw = raw
	_ = raw.Control(func(fd uintptr) { s.sending.Init(netio.ProbeFeatures(int(fd))) })
}

// reply is what send asks of the descriptor, in a form that costs no memory.
type reply struct {
	client    *Conn
	datagrams [][]byte
	one       [1][]byte
	err       error
	write     func(fd uintptr) // writeTo, bound once
}

var replies = sync.Pool{New: func() any {
	r := new(reply)
	r.write = r.writeTo
	return r
}}

// send1 is send of one datagram.
func (c *Conn) send1(datagram []byte) error {
	r := replies.Get().(*reply)
	r.one[0] = datagram
	r.datagrams = r.one[:]
	return r.run(c)
}

// send sends datagrams to the client, those that can be. What finds no room is
// counted; the error is that of the last that cannot be sent.
func (c *Conn) send(datagrams [][]byte) error {
	r := replies.Get().(*reply)
	r.datagrams = datagrams
	return r.run(c)
}

func (r *reply) run(c *Conn) error {
	r.client, r.err = c, nil
	err := c.socket.sender.raw.Control(r.write)
	if err == nil && r.err != nil {
		err = &net.OpError{Op: "write", Net: "udp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: r.err}
	}
	r.client, r.datagrams, r.one[0] = nil, nil, nil
	replies.Put(r)
	return err
}

func (r *reply) writeTo(fd uintptr) {
	c := r.client
	for left := r.datagrams; len(left) > 0; {
		sent, err := c.socket.sender.sending.Send(int(fd), &c.back, left)
		left = left[sent:]
		switch {
		case err == nil:
		case netio.Classify(err) == netio.Exhausted:
			c.socket.sockets.dropped.Add(uint64(len(left)))
			return // there is no room for the next one either
		default:
			r.err = err
			left = left[1:]
		}
	}
}
