//go:build !linux

package listen

import "net"

// growBuffers asks for large buffers; what was given cannot be asked.
func growBuffers(conn *net.UDPConn, size int) (receive, send int) {
	_ = conn.SetReadBuffer(size)
	_ = conn.SetWriteBuffer(size)
	return size, size
}
