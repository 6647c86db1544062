package netio

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sockaddr is an address of a socket in the kernel's form, see ip(7) and
// ipv6(7). An IPv4 address fills its beginning.
type sockaddr struct {
	raw    unix.RawSockaddrInet6
	length uint32
}

// newSockaddr returns an address for a socket of IPv4, or of IPv6, where IPv4
// addresses are written in their mapped form. A zone is the index of an
// interface; any other is left out, see [InterfaceIndex].
func newSockaddr(addr netip.AddrPort, ipv4 bool) (s sockaddr) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&s.raw.Port))[:], addr.Port()) // at the same place in both families
	if ipv4 {
		s.raw.Family, s.length = unix.AF_INET, unix.SizeofSockaddrInet4
		(*unix.RawSockaddrInet4)(unsafe.Pointer(&s.raw)).Addr = addr.Addr().As4()
		return s
	}
	s.raw.Family, s.length = unix.AF_INET6, unix.SizeofSockaddrInet6
	s.raw.Addr = addr.Addr().As16()
	if index, err := strconv.ParseUint(addr.Addr().Zone(), 10, 32); err == nil {
		s.raw.Scope_id = uint32(index)
	}
	return s
}

// peerSockaddr returns the address of a peer for a socket of the peer's own
// family. The error is that of a zone that names no interface.
func peerSockaddr(addr netip.AddrPort) (sockaddr, error) {
	ip := addr.Addr().Unmap()
	if zone := ip.Zone(); zone != "" {
		index, err := InterfaceIndex(zone)
		if err != nil {
			return sockaddr{}, err
		}
		ip = ip.WithZone(strconv.FormatUint(uint64(index), 10))
	}
	return newSockaddr(netip.AddrPortFrom(ip, addr.Port()), ip.Is4()), nil
}

// addrPort returns the address with IPv4-mapped addresses unmapped. A zone is
// the index of an interface: its name would cost a system call. See [ZoneName].
func (s *sockaddr) addrPort() netip.AddrPort {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&s.raw.Port))[:])
	if s.raw.Family == unix.AF_INET {
		raw4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&s.raw))
		return netip.AddrPortFrom(netip.AddrFrom4(raw4.Addr), port)
	}
	addr := netip.AddrFrom16(s.raw.Addr).Unmap()
	if s.raw.Scope_id != 0 && addr.Is6() {
		addr = addr.WithZone(strconv.Itoa(int(s.raw.Scope_id)))
	}
	return netip.AddrPortFrom(addr, port)
}

// localSockaddr returns the address that a socket is bound to.
func localSockaddr(fd int) (s sockaddr, err error) {
	s.length = unix.SizeofSockaddrInet6
	_, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&s.raw)), uintptr(unsafe.Pointer(&s.length)))
	if errno != 0 {
		return s, errno
	}
	return s, nil
}

// LocalAddr returns the address that a socket is bound to. A zone is the index
// of an interface, see [ZoneName].
func LocalAddr(fd int) (netip.AddrPort, error) {
	s, err := localSockaddr(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return s.addrPort(), nil
}

// bind calls bind(2), which never blocks.
func (s *sockaddr) bind(fd int) error {
	_, _, errno := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&s.raw)), uintptr(s.length))
	if errno != 0 {
		return errno
	}
	return nil
}

// connectNonblock calls connect(2) until no signal interrupts it.
func (s *sockaddr) connectNonblock(fd int) error {
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&s.raw)), uintptr(s.length))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// InterfaceIndex returns the index of the interface that an IPv6 zone names;
// zones that are numbers are indexes already. An empty zone is 0.
func InterfaceIndex(zone string) (uint32, error) {
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

// ZoneName returns an address with the name of its interface as the zone, as
// package net writes it, where the zone is an index.
func ZoneName(addr netip.Addr) netip.Addr {
	index, err := strconv.Atoi(addr.Zone())
	if err != nil {
		return addr
	}
	link, err := net.InterfaceByIndex(index)
	if err != nil {
		return addr
	}
	return addr.WithZone(link.Name)
}
