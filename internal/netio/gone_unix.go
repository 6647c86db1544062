//go:build unix

package netio

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Gone says whether the peer of conn has reset the connection. A peer that
// merely finished sending is not gone. It reads nothing and does not block.
func Gone(conn net.Conn) bool {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd)}} // errors and hang-ups are reported unasked
		n, err := unix.Poll(poll, 0)
		gone = err == nil && n > 0 && poll[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0
	})
	return gone || err != nil
}
