//go:build unix

package handler

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// sender sends without waiting: package net would, with the session's lock
// held, for as long as the socket's buffer is full. One datagram at a time.
type sender struct {
	raw      syscall.RawConn
	write    func(fd uintptr) bool // writeOnce, bound once so that sending allocates nothing
	datagram []byte                // writeOnce's
	err      error                 // its outcome
}

func (s *sender) send(conn syscall.Conn, datagram []byte) error {
	if s.raw == nil {
		raw, err := conn.SyscallConn()
		if err != nil {
			return err
		}
		s.raw, s.write = raw, s.writeOnce
	}
	s.datagram = datagram
	err := s.raw.Write(s.write)
	s.datagram = nil
	if err != nil {
		return err
	}
	return s.err
}

func (s *sender) writeOnce(fd uintptr) bool {
	for {
		_, err := unix.Write(int(fd), s.datagram)
		if !errors.Is(err, unix.EINTR) {
			s.err = os.NewSyscallError("write", err)
			return true
		}
	}
}
