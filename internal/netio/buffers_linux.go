package netio

import (
	"golang.org/x/sys/unix"
)

// ConnectedBuffer suits a socket with one peer: the kernel's own size is some
// 270 small datagrams.
const ConnectedBuffer = 1 << 20

// GrowBuffers asks for socket buffers of size bytes in either direction and
// says what there is now: beyond net.core.rmem_max and wmem_max only a process
// with CAP_NET_ADMIN gets anything. No memory is taken before it is needed.
func GrowBuffers(fd, size int) (receive, send int) {
	if !forceBuffers(fd, size) {
		requestBuffers(fd, size)
	}
	receive, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	send, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	return receive / 2, send / 2 // the kernel doubles what is asked for, see socket(7)
}

// force says whether this process may set any size.
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
