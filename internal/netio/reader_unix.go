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
//
// At urgent data, Linux also returns EAGAIN while the thread has a signal pending,
// such as those of Go's scheduler. Nothing would report the rest, so the read is
// repeated where an empty queue is unlikely: when the poller has reported something,
// and once for each reader, whose stream may begin with urgent data. A read after
// another one that found bytes is not repeated, because most of those find nothing.
func (r *Reader) readReady(fd uintptr) bool {
	r.take()
	for {
		r.n, r.err = syscall.Read(int(fd), r.buf[:])
		switch r.err {
		case nil:
			r.doubt = false
			return true
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			if r.doubt && r.stream {
				r.doubt = false
				continue
			}
			r.doubt = true // until the poller has reported something
			r.Release()
			return false
		default:
			r.n, r.err = 0, os.NewSyscallError("read", r.err)
			return true
		}
	}
}
