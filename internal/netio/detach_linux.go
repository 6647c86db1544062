package netio

import (
	"net"
	"syscall"
)

// Detach returns a nonblocking descriptor of conn's socket that the caller owns,
// and closes conn. The connection itself stays open.
func Detach(conn *net.TCPConn) (fd int, err error) {
	fd, err = Duplicate(conn)
	if err == nil {
		_ = conn.Close()
	}
	return fd, err
}

// Duplicate returns another descriptor of conn's socket, which the caller owns.
// While conn is open too, closing the descriptor does not end the connection.
func Duplicate(conn *net.TCPConn) (fd int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	var errno syscall.Errno
	err = raw.Control(func(old uintptr) { fd, errno = duplicate(old) })
	if err == nil && errno != 0 {
		err = errno
	}
	if err != nil {
		return -1, err
	}
	return fd, nil
}
