//go:build unix

package netio

import (
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// AwaitReadable waits until conn has a byte to read, and leaves it unread. At the
// end of the stream it returns io.EOF. It obeys conn's read deadline. The caller
// uses the returned connection in place of conn from then on.
func AwaitReadable(conn *net.TCPConn) (net.Conn, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return conn, err
	}
	var n int
	var peekErr error
	err = raw.Read(func(fd uintptr) (done bool) {
		var b [1]byte
		for {
			n, _, peekErr = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			if peekErr != syscall.EINTR {
				return peekErr != syscall.EAGAIN
			}
		}
	})
	switch {
	case err != nil:
		return conn, err
	case peekErr != nil:
		return conn, &net.OpError{Op: "read", Net: "tcp", Source: conn.LocalAddr(), Addr: conn.RemoteAddr(), Err: peekErr}
	case n == 0:
		return conn, io.EOF
	default:
		return conn, nil
	}
}
