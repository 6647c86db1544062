package dgram

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// Goroutines is the [Engine] that works on any system. Each of its sockets is a
// socket of package net with a goroutine that receives.
type Goroutines struct{}

// Open implements [Engine].
func (Goroutines) Open(addr netip.AddrPort, sink Sink) (Socket, error) {
	conn, err := Dial(addr)
	if err != nil {
		return nil, err
	}
	go conn.receive(sink) // ends when the socket is closed
	return &goSocket{conn: conn}, nil
}

// CloseSpares implements [Engine]. There are no spare sockets.
func (Goroutines) CloseSpares() bool { return false }

// Conn is a connected UDP socket of package net that ignores ICMP errors which
// prove nothing, see [Judge].
type Conn struct {
	*net.UDPConn
	peer      netip.AddrPort
	hasErrors bool // the socket has a queue of ICMP errors
}

// Dial returns a socket that is connected to addr, with a port that has rested.
func Dial(addr netip.AddrPort) (*Conn, error) {
	for tries := 0; ; tries++ {
		c, err := dial(addr)
		if err != nil || tries == portTries || ports.rested(c.port(), time.Now()) {
			return c, err
		}
		_ = c.UDPConn.Close()
	}
}

// dial is Dial with any port.
func dial(addr netip.AddrPort) (*Conn, error) {
	dialer := net.Dialer{Control: netio.AvoidReserve}
	dialled, err := dialer.Dial("udp", addr.String())
	if err != nil {
		return nil, err
	}
	conn := dialled.(*net.UDPConn)
	c := &Conn{UDPConn: conn, peer: conn.RemoteAddr().(*net.UDPAddr).AddrPort()}
	if conn.LocalAddr().(*net.UDPAddr).AddrPort() == c.peer {
		// The system chose the peer's port as the local one: no process listens there.
		_ = conn.Close()
		return nil, &net.OpError{Op: "dial", Net: "udp", Addr: conn.RemoteAddr(), Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	c.hasErrors = netio.EnableErrorQueue(conn)
	return c, nil
}

// port returns the local port.
func (c *Conn) port() uint16 { return c.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

// Read implements net.Conn. It returns the ICMP errors that prove a failure of
// the peer, and waits for a datagram after the others.
func (c *Conn) Read(b []byte) (int, error) {
	for {
		n, err := c.UDPConn.Read(b)
		if err == nil || !c.hasErrors || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
			return n, err
		}
		for _, err := range c.errors() {
			if Judge(err) == BackendFailed {
				return 0, &net.OpError{Op: "read", Net: "udp", Addr: c.RemoteAddr(), Err: err}
			}
		}
	}
}

// Close implements net.Conn. The port rests from now on.
func (c *Conn) Close() error {
	ports.ended(c.port(), time.Now())
	return c.UDPConn.Close()
}

// errors removes and returns the ICMP errors in the socket's queue.
func (c *Conn) errors() (list []*ICMPError) {
	for _, queued := range netio.QueuedErrors(c.UDPConn) {
		if err := icmpError(queued, c.peer); err != nil {
			list = append(list, err)
		}
	}
	return list
}

// receive passes what a socket receives to its sink, until the socket is closed
// or has failed maxFailures times in a row.
func (c *Conn) receive(sink Sink) {
	reader := netio.NewReader(c.UDPConn)
	defer reader.Release()
	var one [1][]byte
	unexplained := 0 // errors in a row without an entry in the error queue
	for failures := 0; failures < maxFailures && unexplained < maxFailures; {
		var err error
		one[0], err = reader.Next()
		switch {
		case err == nil:
			failures, unexplained = 0, 0
			sink.Datagrams(one[:])
		case errors.Is(err, net.ErrClosed):
			return
		case !c.hasErrors:
			failures++
			sink.Failed(err)
		default: // mostly an ICMP error, after which the socket works as before
			if errors.Is(err, os.ErrDeadlineExceeded) { // see goSocket.send
				_ = c.SetReadDeadline(time.Time{})
			}
			list := c.errors()
			if len(list) == 0 {
				unexplained++
			}
			for _, err := range list {
				if err.FromBackend {
					failures++
				}
				if sink.Failed(err); failures >= maxFailures {
					break
				}
			}
		}
	}
	_ = c.Close() // the next Send returns net.ErrClosed
}

// goSocket is a [Socket] of [Goroutines].
type goSocket struct {
	conn   *Conn
	writer netio.DatagramWriter
}

// Send implements [Socket].
func (s *goSocket) Send(datagrams [][]byte) (sent int, err error) {
	for sent < len(datagrams) {
		if err := s.send(datagrams[sent]); err != nil {
			return sent, err
		}
		sent++
	}
	return sent, nil
}

// send sends one datagram. An ICMP error about an earlier one fails it, and is
// reported to the sink.
func (s *goSocket) send(datagram []byte) error {
	err := s.writer.WriteNonblock(s.conn.UDPConn, datagram)
	for range sendRetries {
		if !s.conn.hasErrors || !mayBePending(err) {
			break
		}
		_ = s.conn.SetReadDeadline(time.Unix(1, 0)) // wakes receive, which reads the error queue
		err = s.writer.WriteNonblock(s.conn.UDPConn, datagram)
	}
	if s.conn.hasErrors {
		err = notFailed(err)
	}
	return err
}

// sendRetries is how often a send that failed is repeated, because the error may
// be that of an ICMP message about an earlier datagram. Each send clears one such
// error.
const sendRetries = 2

// notFailed returns the error of a send that was repeated in vain, so that
// [SocketFailed] does not hold for it: the entry in the error queue tells whose
// ICMP error it is. Any host can make sends fail again and again by a flood of
// such messages.
func notFailed(err error) error {
	if !refused(err) {
		return err
	}
	return &unsentError{err}
}

// mayBePending reports whether an error of a send may belong to an earlier
// datagram.
func mayBePending(err error) bool {
	return err != nil && netio.Classify(err) != netio.Exhausted && !errors.Is(err, net.ErrClosed)
}

// LocalAddr implements [Socket].
func (s *goSocket) LocalAddr() netip.AddrPort {
	return s.conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Close implements [Socket].
func (s *goSocket) Close() { _ = s.conn.Close() }
