package netio

import "golang.org/x/sys/unix"

// unsentBytes queries SO_NWRITE: the send buffer keeps bytes until they are
// acknowledged.
func unsentBytes(fd int) (int, error) {
	return unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NWRITE)
}
