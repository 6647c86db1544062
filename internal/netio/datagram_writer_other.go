//go:build !unix

package netio

// DatagramWriter writes datagrams to one connected socket of package net. It
// belongs to one goroutine at a time. The zero value is ready to use.
type DatagramWriter struct{}

// WriteNonblock writes a datagram. This system has no nonblocking write for
// sockets of package net, so it waits while the socket's buffer is full.
func (DatagramWriter) WriteNonblock(conn DatagramConn, datagram []byte) error {
	_, err := conn.Write(datagram)
	return err
}
