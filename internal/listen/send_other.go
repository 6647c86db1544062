//go:build !linux

package listen

import "net"

// sender is how a socket answers its clients: through package net.
type sender struct{}

func (*sender) init(*net.UDPConn) {}

func (c *Conn) send1(datagram []byte) error {
	_, err := c.socket.conn.WriteToUDPAddrPort(datagram, c.key.client)
	return err
}

func (c *Conn) send(datagrams [][]byte) error {
	var last error
	for _, datagram := range datagrams {
		if err := c.send1(datagram); err != nil {
			last = err
		}
	}
	return last
}
