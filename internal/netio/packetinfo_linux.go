package netio

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// EnablePacketInfo makes the kernel report the local address of each datagram in
// a control message: IP_PKTINFO of ip(7), IPV6_RECVPKTINFO of ipv6(7). A
// dual-stack socket gets both messages with an IPv4 datagram. Read them with
// [PacketInfoLocal].
func EnablePacketInfo(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var errno4, errno6 unix.Errno
	if err := raw.Control(func(fd uintptr) {
		errno4 = SetOption(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		errno6 = SetOption(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}); err != nil {
		return err
	}
	if errno6 != 0 && errno4 != 0 { // only an IPv4 socket refuses the IPv6 option
		return errno4
	}
	return nil
}

// PacketInfoLocal returns the local address that the control messages of a
// datagram report. For IPv4 broadcast that is the address of the interface. It
// returns the zero Addr if there is none, or if no answer can be sent from it, as
// with multicast. The zone of a link-local address is the index of the
// interface: its name would cost a system call for each datagram.
func PacketInfoLocal(control []byte) (local netip.Addr) {
	for m, rest, ok := nextMessage(control); ok; m, rest, ok = nextMessage(rest) {
		switch {
		case m.is(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO) && len(m.data) >= unix.SizeofInet6Pktinfo:
			local = netip.AddrFrom16([16]byte(m.data[:16])).Unmap()
			if local.Is6() && local.IsLinkLocalUnicast() {
				local = local.WithZone(strconv.Itoa(int(binary.NativeEndian.Uint32(m.data[16:20]))))
			}
		case m.is(unix.IPPROTO_IP, unix.IP_PKTINFO) && len(m.data) >= unix.SizeofInet4Pktinfo:
			local = netip.AddrFrom4([4]byte(m.data[4:8])) // ipi_spec_dst
		}
	}
	if local.IsMulticast() {
		return netip.Addr{}
	}
	return local
}

// PacketInfoFrom returns the control message that makes a socket bound to a
// wildcard address send a datagram from local. ipv4 means that the socket takes
// IPv4 addresses only; a dual-stack socket takes them in their mapped form.
func PacketInfoFrom(ipv4 bool, local netip.Addr) (control []byte) {
	if ipv4 {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: local.As4()})
	}
	info := unix.Inet6Pktinfo{Addr: local.As16()}
	if index, err := strconv.ParseUint(local.Zone(), 10, 32); err == nil {
		info.Ifindex = uint32(index)
	}
	return unix.PktInfo6(&info)
}
