package listen

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// TCPConn is a client of relay+tcp/: a descriptor, until somebody wants more. A
// relay takes that over ([TCPConn.Detach]). Whoever has to wait for the client,
// as a TLS handshake does, gets a connection of package net beneath it.
type TCPConn struct {
	local, remote *net.TCPAddr // set once

	mu            sync.Mutex // guards what follows; never held while somebody waits
	fd            int
	state         connState
	conn          *net.TCPConn // in state waited for
	readDeadline  time.Time    // for conn, if there will be one
	writeDeadline time.Time
}

type connState uint8

const (
	untouched connState = iota // fd
	waitedFor                  // conn
	over                       // closed, or taken over
)

// Net gives the connection of package net that is beneath this one from now on.
func (c *TCPConn) Net() (*net.TCPConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.state {
	case waitedFor:
		return c.conn, nil
	case over:
		return nil, net.ErrClosed
	}
	file := os.NewFile(uintptr(c.fd), "tcp client")
	conn, err := net.FileConn(file) // has a descriptor of its own
	_ = file.Close()
	if err != nil {
		c.state = over
		return nil, err
	}
	c.conn, c.state = conn.(*net.TCPConn), waitedFor
	_ = c.conn.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true}) // as Caddy's own listeners do
	if !c.readDeadline.IsZero() {
		_ = c.conn.SetReadDeadline(c.readDeadline)
	}
	if !c.writeDeadline.IsZero() {
		_ = c.conn.SetWriteDeadline(c.writeDeadline)
	}
	return c.conn, nil
}

// Detach gives the client's descriptor, which does not block, to a relay. From
// then on this connection has nothing but its addresses, and Close does nothing.
func (c *TCPConn) Detach() (fd int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.state {
	case waitedFor:
		fd, err = netio.Duplicate(c.conn)
		if err != nil {
			return -1, err
		}
		_ = c.conn.Close()
	case over:
		return -1, net.ErrClosed
	default:
		fd = c.fd
	}
	c.state = over
	return fd, nil
}

// Read implements net.Conn. What is there already is read without more ado:
// matchers mostly ask for what a client has just said.
func (c *TCPConn) Read(b []byte) (int, error) {
	if n, err, done := c.readNow(b); done {
		return n, err
	}
	conn, err := c.Net()
	if err != nil {
		return 0, err
	}
	return conn.Read(b)
}

func (c *TCPConn) readNow(b []byte) (n int, err error, done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != untouched || len(b) == 0 {
		return 0, nil, false
	}
	if !c.readDeadline.IsZero() && !time.Now().Before(c.readDeadline) {
		return 0, os.ErrDeadlineExceeded, true
	}
	n, errno := netio.ReadNonblock(c.fd, b)
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

// CloseWrite tells the client that no more bytes come.
func (c *TCPConn) CloseWrite() error {
	conn, err := c.Net()
	if err != nil {
		return err
	}
	return conn.CloseWrite()
}

// SetLinger says what Close does with what was not sent, as that of package net.
func (c *TCPConn) SetLinger(seconds int) error {
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
	c.state = over
	switch state {
	case untouched:
		return os.NewSyscallError("close", unix.Close(c.fd))
	case waitedFor:
		return c.conn.Close()
	}
	return nil
}

// LocalAddr implements net.Conn.
func (c *TCPConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *TCPConn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *TCPConn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn. As long as nobody waits it is merely
// remembered: layer4's routes set and clear one for each client.
func (c *TCPConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readDeadline = t
	if c.state == waitedFor {
		return c.conn.SetReadDeadline(t)
	}
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *TCPConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeDeadline = t
	if c.state == waitedFor {
		return c.conn.SetWriteDeadline(t)
	}
	return nil
}
