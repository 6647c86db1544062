package netio

import "golang.org/x/sys/unix"

// PeekNonblock reports by a nil error that a datagram is waiting in a UDP socket. The
// error is EAGAIN if there is none. An error of the socket is returned and cleared.
func PeekNonblock(fd int) error {
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), 0, 0, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}
