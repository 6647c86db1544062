package netio

import (
	"net"
	"syscall"
)

// Detach gives a descriptor of conn's socket that package net knows nothing of
// and that does not block, and closes conn. The connection goes on.
func Detach(conn *net.TCPConn) (fd int, err error) {
	fd, err = Duplicate(conn)
	if err == nil {
		_ = conn.Close()
	}
	return fd, err
}

// Duplicate gives another descriptor of conn's socket. Where conn is not closed
// by whoever has it, there is no end of the connection but a shutdown.
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
