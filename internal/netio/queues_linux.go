package netio

import (
	"net"

	"golang.org/x/sys/unix"
)

// Unacknowledged returns how many bytes were written to a connection that its
// peer has not acknowledged. ok is false where that is unknown: conn is not a
// plain socket, or is closed.
func Unacknowledged(conn net.Conn) (n int, ok bool) {
	control(conn, func(fd int) { n, ok = UnacknowledgedFD(fd) })
	return n, ok
}

// UnacknowledgedFD is [Unacknowledged] for a descriptor. It never blocks.
func UnacknowledgedFD(fd int) (n int, ok bool) {
	n, err := ioctlInt(fd, unix.SIOCOUTQ) // tcp(7)
	return n, err == nil
}

// Unread returns how many bytes a connection has received that were not read
// yet. ok is false where that is unknown.
func Unread(conn net.Conn) (n int, ok bool) {
	control(conn, func(fd int) { n, ok = UnreadFD(fd) })
	return n, ok
}

// UnreadFD is [Unread] for a descriptor. It never blocks.
func UnreadFD(fd int) (n int, ok bool) {
	n, err := ioctlInt(fd, unix.SIOCINQ) // tcp(7)
	return n, err == nil
}
