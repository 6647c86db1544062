//go:build !unix

package netio

import "syscall"

// rawConn: this system's sockets are read through package net alone.
func rawConn(syscall.Conn) syscall.RawConn { return nil }

func (r *Reader) readReady(uintptr) bool { return true }
