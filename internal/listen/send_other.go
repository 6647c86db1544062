//go:build !linux

package listen

import (
	"errors"
	"net"
)

// replySender is empty: replies are sent with package net.
type replySender struct{}

func (*replySender) init(*net.UDPConn) {}

// leavePoller is not supported: sockets are passed to other processes on Linux only.
func (*replySender) leavePoller() error { return errors.ErrUnsupported }

func (*replySender) close() {}

func (c *Conn) sendOne(datagram []byte) error {
	_, err := c.socket.conn.WriteToUDPAddrPort(datagram, c.key.client)
	return err
}

func (c *Conn) send(datagrams [][]byte) error {
	var last error
	for _, datagram := range datagrams {
		if err := c.sendOne(datagram); err != nil {
			last = err
		}
	}
	return last
}
