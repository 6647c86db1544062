//go:build !unix

package handler

import "net"

// sender sends through package net.
type sender struct{}

func (sender) send(conn net.Conn, datagram []byte) error {
	_, err := conn.Write(datagram)
	return err
}
