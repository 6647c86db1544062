package netio

import (
	"encoding/binary"

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
	for m, rest, ok := nextMessage(control); ok; m, rest, ok = nextMessage(rest) {
		isDestination := m.is(unix.IPPROTO_IP, unix.IP_ORIGDSTADDR) || m.is(unix.IPPROTO_IPV6, unix.IPV6_ORIGDSTADDR)
		if isDestination && len(m.data) >= unix.SizeofSockaddrInet4 {
			return binary.BigEndian.Uint16(m.data[2:]) // behind the address family, in both
		}
	}
	return 0
}
