package netio

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls in this file are over at once, whatever the network does:
// the scheduler is not told of them.

// ConnectUDP makes a socket that does not block and that only addr can send to.
func ConnectUDP(addr netip.AddrPort) (fd int, err error) {
	ip := addr.Addr().Unmap()
	family := unix.AF_INET
	if !ip.Is4() {
		family = unix.AF_INET6
		link, err := linkOf(ip.Zone())
		if err != nil {
			return -1, err
		}
		ip = ip.WithZone(link)
	}
	to := NewPath(netip.AddrPortFrom(ip, addr.Port()), ip.Is4(), nil)
	n, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if errno != 0 {
		return -1, os.NewSyscallError("socket", errno)
	}
	fd = int(n)
	err = to.connect(fd)
	if errors.Is(err, unix.EACCES) {
		// As package net allows: a backend may be a broadcast address.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
		err = to.connect(fd)
	}
	if err != nil {
		CloseFD(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

func (p *Path) connect(fd int) error {
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&p.name)), uintptr(p.length))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// linkOf is the number of the link that a zone names, or is, as a zone.
func linkOf(zone string) (string, error) {
	if zone == "" {
		return "", nil
	}
	link, err := LinkIndex(zone)
	return strconv.FormatUint(uint64(link), 10), err
}

// LinkIndex is the number of the link that a zone names, or is; 0 for no zone.
func LinkIndex(zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	link, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, err
	}
	return uint32(link.Index), nil
}

// CloseFD closes a descriptor that nothing is written through to a disk.
func CloseFD(fd int) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// AddToEpoll has an epoll watch a descriptor.
func AddToEpoll(epoll, fd int, event unix.EpollEvent) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epoll), unix.EPOLL_CTL_ADD, uintptr(fd), uintptr(unsafe.Pointer(&event)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// LookAtEpoll says what an epoll has at hand, without waiting.
func LookAtEpoll(epoll int, events []unix.EpollEvent) int {
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
