//go:build !unix

package netio

import "net"

// AwaitReadable waits until conn has a byte to read. At the end of the stream it
// returns io.EOF. It obeys conn's read deadline. The caller uses the returned
// connection in place of conn from then on: it still has the byte.
func AwaitReadable(conn *net.TCPConn) (net.Conn, error) {
	c := &peekedConn{TCPConn: conn, first: make([]byte, 1)}
	if _, err := conn.Read(c.first); err != nil {
		return conn, err
	}
	return c, nil
}

// peekedConn is a connection from which a byte was read in advance.
// It is read by one goroutine at a time.
type peekedConn struct {
	*net.TCPConn
	first []byte
}

// Read implements net.Conn.
func (c *peekedConn) Read(b []byte) (int, error) {
	if len(c.first) == 0 || len(b) == 0 {
		return c.TCPConn.Read(b)
	}
	n := copy(b, c.first)
	c.first = c.first[n:]
	return n, nil
}
