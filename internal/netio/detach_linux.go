package netio

import (
	"net"
	"syscall"
)

// Detach returns a nonblocking descriptor of conn's socket that the caller owns,
// and closes conn. The connection itself stays open. The descriptor is not in the
// reserve.
func Detach(conn *net.TCPConn) (fd int, err error) {
	fd, err = duplicateOf(conn)
	if err != nil {
		return -1, err
	}
	_ = conn.Close()
	if moved, ok := LeaveReserveNonblock(fd); ok { // conn had the last number outside the reserve
		return moved, nil
	}
	CloseDescriptor(fd)
	return -1, ErrReserved
}

// Duplicate returns another descriptor of conn's socket, which the caller owns and
// which is not in the reserve. While conn is open too, closing the descriptor does
// not end the connection.
func Duplicate(conn *net.TCPConn) (fd int, err error) {
	fd, err = duplicateOf(conn)
	if err == nil && Reserved(fd) {
		CloseDescriptor(fd)
		return -1, ErrReserved
	}
	return fd, err
}

func duplicateOf(conn syscall.Conn) (fd int, err error) {
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

// LeaveReserveNonblock returns fd, or another descriptor of the same socket if fd
// is in the reserve; fd is closed then. ok is false, and fd unchanged, if only
// reserved descriptors are free.
func LeaveReserveNonblock(fd int) (out int, ok bool) {
	if !Reserved(fd) {
		return fd, true
	}
	out, errno := duplicate(uintptr(fd))
	if errno != 0 {
		return fd, false
	}
	if Reserved(out) {
		CloseDescriptor(out)
		return fd, false
	}
	CloseDescriptor(fd)
	return out, true
}
