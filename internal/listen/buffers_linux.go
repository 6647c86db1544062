package listen

import (
	"net"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// growBuffers requests socket buffers of size bytes and returns the sizes that
// the kernel granted.
func growBuffers(conn *net.UDPConn, size int) (receive, send int) {
	raw, err := conn.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { receive, send = netio.GrowBuffers(int(fd), size) })
	}
	if err != nil {
		return size, size // the socket is closed, so there is nothing to warn about
	}
	return receive, send
}
