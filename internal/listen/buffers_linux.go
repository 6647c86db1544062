package listen

import (
	"net"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// growBuffers asks for large buffers and says what was given.
func growBuffers(conn *net.UDPConn, size int) (receive, send int) {
	raw, err := conn.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { receive, send = netio.GrowBuffers(int(fd), size) })
	}
	if err != nil {
		return size, size // closed: nobody lacks anything
	}
	return receive, send
}
