package listen

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// TCPConn is a client of relay+tcp/. It begins as a bare descriptor, which a relay
// takes over with [TCPConn.Detach]. A caller that has to wait for the client, such
// as a TLS handshake, turns it into a connection of package net.
type TCPConn struct {
	local, remote *net.TCPAddr // not changed

	mu        sync.Mutex // guards the fields below; never held during a wait
	fd        int32      // in connBare
	state     connState
	conn      *net.TCPConn // in connWrapped
	deadlines *deadlines   // kept for conn; nil: none was set
}

// deadlines are those of reads and of writes. Clients that layer4 does not route have none.
type deadlines struct{ read, write time.Time }

// connState is the state of a [TCPConn].
//
//	          a Read that has to wait,
//	          Write, Net, ...
//	connBare --------------------------> connWrapped
//	   |                                      |
//	   +----------> Close, Detach <-----------+
//	                      |
//	                      v
//	                 connClosed
type connState uint8

const (
	connBare    connState = iota // TCPConn.fd is the client
	connWrapped                  // TCPConn.conn is the client
	connClosed                   // closed or detached
)

// Net turns the client into a connection of package net and returns it. The
// TCPConn uses that connection from now on.
func (c *TCPConn) Net() (*net.TCPConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.state {
	case connWrapped:
		return c.conn, nil
	case connClosed:
		return nil, net.ErrClosed
	}
	conn, err := netio.ConnOf(int(c.fd))
	if err != nil {
		c.state = connClosed
		return nil, err
	}
	c.conn, c.state = conn.(*net.TCPConn), connWrapped
	if d := c.deadlines; d != nil {
		_ = c.conn.SetReadDeadline(d.read)
		_ = c.conn.SetWriteDeadline(d.write)
	}
	return c.conn, nil
}

// SetKeepAliveConfig sets the TCP keep-alive of the client, like that of package
// net. Without it, the client has the settings of the listening socket,
// [netio.DefaultKeepAlive]. Idle and Interval are the same.
func (c *TCPConn) SetKeepAliveConfig(config net.KeepAliveConfig) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.state == connWrapped:
		return c.conn.SetKeepAliveConfig(config)
	case c.state == connClosed:
		return net.ErrClosed
	case !config.Enable:
		netio.SetKeepAlive(int(c.fd), 0)
	default:
		netio.SetKeepAlive(int(c.fd), config.Idle)
	}
	return nil
}

// Detach returns the client's descriptor, which is non-blocking and belongs to the
// caller. After that, only the addresses of c can be used, and Close does nothing.
func (c *TCPConn) Detach() (fd int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.state {
	case connWrapped:
		fd, err = netio.Detach(c.conn)
		if err != nil {
			return -1, err
		}
	case connClosed:
		return -1, net.ErrClosed
	default:
		fd = int(c.fd)
	}
	c.state = connClosed
	return fd, nil
}

// leaveReserve gives a client that was just accepted another descriptor if its one
// is in the reserve (see [netio.Reserved]). It returns false if there is none.
func (c *TCPConn) leaveReserve() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != connBare {
		return false
	}
	fd, ok := netio.LeaveReserveNonblock(int(c.fd))
	c.fd = int32(fd)
	return ok
}

// Read implements net.Conn. If bytes have arrived already, it reads them from the
// bare descriptor. Matchers seldom need more, because most clients send at once.
func (c *TCPConn) Read(b []byte) (int, error) {
	if n, err, done := c.readNonblock(b); done {
		return n, err
	}
	conn, err := c.Net()
	if err != nil {
		return 0, err
	}
	return conn.Read(b)
}

// readNonblock reads from the bare descriptor. done is false if there is none, or
// if nothing has arrived.
func (c *TCPConn) readNonblock(b []byte) (n int, err error, done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != connBare || len(b) == 0 {
		return 0, nil, false
	}
	if d := c.deadlines; d != nil && !d.read.IsZero() && !time.Now().Before(d.read) {
		return 0, os.ErrDeadlineExceeded, true
	}
	n, errno := netio.ReadNonblock(int(c.fd), b)
	switch {
	case errno == syscall.EAGAIN:
		return 0, nil, false
	case errno != 0:
		return 0, &net.OpError{Op: "read", Net: "tcp", Source: c.local, Addr: c.remote, Err: os.NewSyscallError("read", errno)}, true
	case n == 0:
		return 0, io.EOF, true
	}
	return n, nil, true
}

// Write implements net.Conn.
func (c *TCPConn) Write(b []byte) (int, error) {
	conn, err := c.Net()
	if err != nil {
		return 0, err
	}
	return conn.Write(b)
}

// ReadFrom implements io.ReaderFrom, as package net's connections do.
func (c *TCPConn) ReadFrom(r io.Reader) (int64, error) {
	conn, err := c.Net()
	if err != nil {
		return 0, err
	}
	return conn.ReadFrom(r)
}

// WriteTo implements io.WriterTo.
func (c *TCPConn) WriteTo(w io.Writer) (int64, error) {
	conn, err := c.Net()
	if err != nil {
		return 0, err
	}
	return conn.WriteTo(w)
}

// CloseWrite shuts down the sending side, as [net.TCPConn.CloseWrite] does.
func (c *TCPConn) CloseWrite() error {
	conn, err := c.Net()
	if err != nil {
		return err
	}
	return conn.CloseWrite()
}

// resetOnClose makes Close reset a client that is not a connection of package net, which
// would need another descriptor. It returns false if the client is one.
func (c *TCPConn) resetOnClose() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == connBare {
		netio.ResetOnClose(int(c.fd))
	}
	return c.state == connBare
}

// SetLinger sets what Close does with unsent bytes, as [net.TCPConn.SetLinger] does.
func (c *TCPConn) SetLinger(seconds int) error {
	if seconds == 0 && c.resetOnClose() {
		return nil
	}
	conn, err := c.Net()
	if err != nil {
		return err
	}
	return conn.SetLinger(seconds)
}

// SyscallConn implements syscall.Conn.
func (c *TCPConn) SyscallConn() (syscall.RawConn, error) {
	conn, err := c.Net()
	if err != nil {
		return nil, err
	}
	return conn.SyscallConn()
}

// Close implements net.Conn.
func (c *TCPConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	state := c.state
	c.state = connClosed
	switch state {
	case connBare:
		netio.CloseDescriptor(int(c.fd))
	case connWrapped:
		return c.conn.Close()
	}
	return nil
}

// LocalAddr implements net.Conn.
func (c *TCPConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *TCPConn) RemoteAddr() net.Addr { return c.remote }

// deadlinesLocked returns the deadlines, to be changed.
func (c *TCPConn) deadlinesLocked() *deadlines {
	if c.deadlines == nil {
		c.deadlines = new(deadlines)
	}
	return c.deadlines
}

// SetDeadline implements net.Conn.
func (c *TCPConn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn. A bare client only stores it, because
// layer4's routes set and clear a deadline for each client.
func (c *TCPConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadlinesLocked().read = t
	if c.state == connWrapped {
		return c.conn.SetReadDeadline(t)
	}
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *TCPConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadlinesLocked().write = t
	if c.state == connWrapped {
		return c.conn.SetWriteDeadline(t)
	}
	return nil
}
