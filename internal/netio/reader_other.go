//go:build !unix

package netio

import "syscall"

// rawConn returns nil: on this system sockets are read through package net.
func rawConn(syscall.Conn) syscall.RawConn { return nil }

// readReady is not called.
func (r *Reader) readReady(uintptr) bool { return true }
