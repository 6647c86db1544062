package netio

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// EnableDestinations makes the kernel report the destination of each datagram in
// a control message (IP_RECVORIGDSTADDR of ip(7)). Read it with
// [DestinationPort].
func EnableDestinations(fd int, ipv4 bool) error {
	level, option := unix.IPPROTO_IPV6, unix.IPV6_RECVORIGDSTADDR
	if ipv4 {
		level, option = unix.IPPROTO_IP, unix.IP_RECVORIGDSTADDR
	}
	if errno := SetOption(fd, level, option, 1); errno != 0 {
		return errno
	}
	return nil
}

// DestinationPort returns the port that a datagram was sent to, from its control
// messages. It returns 0 if they do not contain it.
func DestinationPort(control []byte) uint16 {
	for len(control) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		length := int(h.Len)
		if length < unix.CmsgLen(unix.SizeofSockaddrInet4) || length > len(control) {
			break
		}
		if h.Level == unix.IPPROTO_IP && h.Type == unix.IP_ORIGDSTADDR || h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_ORIGDSTADDR {
			return binary.BigEndian.Uint16(control[unix.CmsgLen(2):]) // behind the address family, in both
		}
		control = control[min(len(control), unix.CmsgSpace(length-unix.CmsgLen(0))):]
	}
	return 0
}
