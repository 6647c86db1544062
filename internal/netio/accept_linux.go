package netio

import (
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// AcceptNonblock accepts a client of a listening socket in non-blocking mode. The
// new descriptor is non-blocking and close-on-exec. The error is EAGAIN if no
// client is queued; clients that have already left are skipped. A zone in the
// client's address is the index of an interface, see [ZoneName].
func AcceptNonblock(listener int) (fd int, client netip.AddrPort, errno syscall.Errno) {
	for {
		var s sockaddr
		s.length = unix.SizeofSockaddrInet6
		n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&s.raw)), uintptr(unsafe.Pointer(&s.length)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		switch errno {
		case 0:
			return int(n), s.addrPort(), 0
		case unix.EINTR, unix.ECONNABORTED:
		default:
			return -1, netip.AddrPort{}, errno
		}
	}
}

// SetNoDelay sets TCP_NODELAY, which disables Nagle's algorithm (see tcp(7)).
func SetNoDelay(fd int) syscall.Errno {
	return SetOption(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
}
