//go:build !linux

package netio

import (
	"net"
	"os"
)

// fileConn is [net.FileConn]. On Linux, it also leaves the keep-alive of a TCP socket as it
// is; here the socket has that of package net afterwards.
func fileConn(file *os.File) (net.Conn, error) { return net.FileConn(file) }
