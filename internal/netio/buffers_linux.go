package netio

import "golang.org/x/sys/unix"

// ConnectedBuffer is a buffer size for a socket with one peer. The kernel's
// default holds only about 270 small datagrams.
const ConnectedBuffer = 1 << 20

// GrowBuffers requests socket buffers of size bytes in both directions and returns
// the sizes that the socket has now. Only a process with CAP_NET_ADMIN gets more
// than net.core.rmem_max and wmem_max. The kernel allocates the memory when it is
// needed.
func GrowBuffers(fd, size int) (receive, send int) {
	if !forceBuffers(fd, size) {
		requestBuffers(fd, size)
	}
	receive, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	send, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	return receive / 2, send / 2 // the kernel doubles the requested size, see socket(7)
}

// forceBuffers sets the sizes without regard to the limits, and reports whether
// this process may do that.
func forceBuffers(fd, size int) bool {
	return setSize(fd, unix.SO_RCVBUFFORCE, size) && setSize(fd, unix.SO_SNDBUFFORCE, size)
}

func requestBuffers(fd, size int) {
	setSize(fd, unix.SO_RCVBUF, size)
	setSize(fd, unix.SO_SNDBUF, size)
}

func setSize(fd, option, size int) bool {
	return SetOption(fd, unix.SOL_SOCKET, option, size) == 0
}
