package netio

import "golang.org/x/sys/unix"

// ResetDescriptor closes a socket so that its peer sees a reset.
func ResetDescriptor(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.Close(fd)
}
