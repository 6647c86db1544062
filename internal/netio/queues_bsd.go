//go:build darwin || freebsd

package netio

import (
	"net"

	"golang.org/x/sys/unix"
)

// fionread is FIONREAD of sys/filio.h.
const fionread = 0x4004667f

// Unacknowledged returns how many bytes were written to a connection that its
// peer has not acknowledged. ok is false where that is unknown: conn is not a
// plain socket, or is closed.
func Unacknowledged(conn net.Conn) (n int, ok bool) {
	control(conn, func(fd int) {
		var err error
		n, err = unsentBytes(fd)
		ok = err == nil
	})
	return n, ok
}

// Unread returns how many bytes a connection has received that were not read
// yet. ok is false where that is unknown.
func Unread(conn net.Conn) (n int, ok bool) {
	control(conn, func(fd int) {
		var err error
		n, err = unix.IoctlGetInt(fd, fionread)
		ok = err == nil
	})
	return n, ok
}
