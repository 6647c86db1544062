//go:build unix

package netio

import (
	"os"
	"syscall"
)

func rawConn(c syscall.Conn) syscall.RawConn {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// readReady reads if there is something; its false makes the runtime wait
// until there is, without a buffer.
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
