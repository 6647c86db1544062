//go:build unix

package netio

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// DatagramWriter writes datagrams to one connected socket of package net. It
// belongs to one goroutine at a time. The zero value is ready to use.
type DatagramWriter struct {
	raw      syscall.RawConn
	write    func(fd uintptr) bool // writeOnce, bound once so that a write allocates nothing
	datagram []byte                // writeOnce's argument
	err      error                 // writeOnce's result
}

// WriteNonblock writes a datagram. The error is EAGAIN if the socket's buffer is
// full, where Write of package net would wait. conn must be the same in all calls.
func (w *DatagramWriter) WriteNonblock(conn DatagramConn, datagram []byte) error {
	if w.raw == nil {
		raw, err := conn.SyscallConn()
		if err != nil {
			return err
		}
		w.raw, w.write = raw, w.writeOnce
	}
	w.datagram = datagram
	err := w.raw.Write(w.write)
	w.datagram = nil
	if err != nil {
		return err
	}
	return w.err
}

// writeOnce returns true even if there was no room, so that RawConn.Write does
// not wait.
func (w *DatagramWriter) writeOnce(fd uintptr) bool {
	for {
		_, err := unix.Write(int(fd), w.datagram)
		if !errors.Is(err, unix.EINTR) {
			w.err = os.NewSyscallError("write", err)
			return true
		}
	}
}
