//go:build unix

package netio

import (
	"os"
	"syscall"
)

// rawConn returns nil if the socket has no descriptor to read from.
func rawConn(c syscall.Conn) syscall.RawConn {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// readReady reads from a nonblocking descriptor. It returns false, without a
// buffer, if there is nothing to read: the runtime then waits and calls it again.
func (r *Reader) readReady(fd uintptr) bool {
	r.take()
	for {
		r.n, r.err = syscall.Read(int(fd), r.buf[:])
		switch r.err {
		case nil:
			return true
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			r.Release()
			return false
		default:
			r.n, r.err = 0, os.NewSyscallError("read", r.err)
			return true
		}
	}
}
