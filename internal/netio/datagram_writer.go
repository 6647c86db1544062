package netio

import (
	"io"
	"syscall"
)

// DatagramConn is a connected datagram socket of package net or os.
type DatagramConn interface {
	io.Writer
	syscall.Conn
}
