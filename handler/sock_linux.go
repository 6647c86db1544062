package handler

import (
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// This file is the system calls of the event loops. Their sockets never block,
// so the scheduler need not be told: what package syscall does around each call
// costs about as much as a short call itself.

// writeNow writes what there is room for.
func writeNow(fd int, bytes []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(bytes))), uintptr(len(bytes)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// splice moves bytes between a socket and a pipe, whichever way.
func splice(from, to, size int) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(size), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch errno {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// finish tells the peer that no more bytes come.
func finish(fd int) syscall.Errno {
	_, _, errno := syscall.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0)
	return errno
}

func watch(epoll, op, fd int, events uint32, id uint64) error {
	event := unix.EpollEvent{Events: events, Fd: int32(id), Pad: int32(id >> 32)}
	_, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epoll), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&event)), 0, 0)
	switch errno {
	case 0:
		return nil
	case unix.ENOSPC: // max_user_watches of epoll(7): no lack of space on a disk
		errno = unix.ENOMEM
	}
	return os.NewSyscallError("epoll_ctl", errno)
}

// gone says whether the peer has reset the connection; see [netio.PeerStateOf].
func gone(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd)}} // errors and hang-ups are reported unasked
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0 && poll[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0
}

// socketError is the error that lies at a socket, which takes it away.
func socketError(fd int) syscall.Errno {
	lies, errno := netio.Option(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if errno != 0 {
		return unix.EBADF
	}
	return syscall.Errno(lies)
}

// connectTCP begins to connect. done says that it has connected already, which
// it has where the peer is this machine.
func connectTCP(addr netip.AddrPort) (fd int, done bool, err error) {
	var space unix.RawSockaddrInet6
	family, size, err := rawSockaddr(addr, &space)
	if err != nil {
		return -1, false, err
	}
	r, _, errno := syscall.RawSyscall(unix.SYS_SOCKET, uintptr(family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if errno != 0 {
		return -1, false, os.NewSyscallError("socket", errno)
	}
	fd = int(r)
	netio.SetOption(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	for range 2 { // the second asks what became of the first
		_, _, errno = syscall.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&space)), size)
		switch errno {
		case 0, unix.EISCONN:
			if toItself(fd, &space) {
				netio.CloseDescriptor(fd)
				return -1, false, os.NewSyscallError("connect", unix.ECONNREFUSED)
			}
			return fd, true, nil
		case unix.EINPROGRESS, unix.EALREADY, unix.EINTR:
		default:
			netio.CloseDescriptor(fd)
			return -1, false, os.NewSyscallError("connect", errno)
		}
	}
	return fd, false, nil
}

// toItself says whether a socket has connected to itself: where nobody listens
// on a port of this machine that the system gives to those who connect, it may
// be given to the very one who connects to it.
func toItself(fd int, peer *unix.RawSockaddrInet6) bool {
	var own unix.RawSockaddrInet6
	size := uint32(unix.SizeofSockaddrInet6)
	_, _, errno := syscall.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&own)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 || own.Port != peer.Port || own.Family != peer.Family {
		return false
	}
	if own.Family == unix.AF_INET {
		return (*unix.RawSockaddrInet4)(unsafe.Pointer(&own)).Addr == (*unix.RawSockaddrInet4)(unsafe.Pointer(peer)).Addr
	}
	return own.Addr == peer.Addr
}

// rawSockaddr writes an address as the kernel reads it. An IPv4 address needs
// less of the space.
func rawSockaddr(addr netip.AddrPort, space *unix.RawSockaddrInet6) (family int, size uintptr, err error) {
	port := [2]byte{byte(addr.Port() >> 8), byte(addr.Port())}
	if ip := addr.Addr().Unmap(); ip.Is4() {
		raw := (*unix.RawSockaddrInet4)(unsafe.Pointer(space))
		*raw = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: ip.As4()}
		*(*[2]byte)(unsafe.Pointer(&raw.Port)) = port
		return unix.AF_INET, unix.SizeofSockaddrInet4, nil
	}
	*space = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: addr.Addr().As16()}
	*(*[2]byte)(unsafe.Pointer(&space.Port)) = port
	if space.Scope_id, err = netio.InterfaceIndex(addr.Addr().Zone()); err != nil {
		return 0, 0, err
	}
	return unix.AF_INET6, unix.SizeofSockaddrInet6, nil
}

func lookAtEpoll(epoll int, events []unix.EpollEvent) int {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
		switch errno {
		case 0:
			return int(n)
		case unix.EINTR:
		default:
			return 0
		}
	}
}
