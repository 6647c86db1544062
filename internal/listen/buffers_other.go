//go:build !linux

package listen

import "net"

// growBuffers requests socket buffers of size bytes. The granted sizes are
// unknown on this system, so it returns size.
func growBuffers(conn *net.UDPConn, size int) (receive, send int) {
	_ = conn.SetReadBuffer(size)
	_ = conn.SetWriteBuffer(size)
	return size, size
}
