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
	to, err := pathTo(addr)
	if err != nil {
		return -1, err
	}
	n, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(to.name.Family), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if errno != 0 {
		return -1, os.NewSyscallError("socket", errno)
	}
	fd = int(n)
	if err := to.connect(fd); err != nil {
		CloseFD(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

// ReconnectUDP connects a socket of addr's family anew that was disconnected, on
// another port and without what its last use has left in it.
func ReconnectUDP(fd int, addr netip.AddrPort) error {
	if err := empty(fd); err != nil {
		return err
	}
	to, err := pathTo(addr)
	if err != nil {
		return err
	}
	return os.NewSyscallError("connect", to.connect(fd))
}

// empty throws away what came in on a socket that nothing comes in on any more.
// It fails where that is more than making another socket costs: a large buffer
// holds thousands of datagrams.
func empty(fd int) error {
	const patience = 1000
	var one [1]byte
	for range patience {
		if _, errno := ReadNow(fd, one[:]); errno == unix.EAGAIN {
			return nil
		}
	}
	return os.NewSyscallError("recvfrom", unix.EBUSY)
}

// DisconnectUDP has a socket forget its peer and give its port back: nothing
// reaches it any more. See connect(2), AF_UNSPEC.
func DisconnectUDP(fd int) error {
	nobody := Path{length: unix.SizeofSockaddrInet4} // AF_UNSPEC is 0
	return nobody.connectOnce(fd)
}

// pathTo is the way to an address from a socket of its own family.
func pathTo(addr netip.AddrPort) (Path, error) {
	ip := addr.Addr().Unmap()
	if !ip.Is4() {
		link, err := linkOf(ip.Zone())
		if err != nil {
			return Path{}, err
		}
		ip = ip.WithZone(link)
	}
	return NewPath(netip.AddrPortFrom(ip, addr.Port()), ip.Is4(), nil), nil
}

// connect also connects to a broadcast address, as package net does: a backend
// may be one.
func (p *Path) connect(fd int) error {
	err := p.connectOnce(fd)
	if errors.Is(err, unix.EACCES) {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
		err = p.connectOnce(fd)
	}
	return err
}

func (p *Path) connectOnce(fd int) error {
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
