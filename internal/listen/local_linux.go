package listen

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// askLocal has the kernel say with each datagram which of our addresses it
// came to: IP_PKTINFO of ip(7), IPV6_RECVPKTINFO of ipv6(7). A socket of both
// families says both of a datagram that came by IPv4.
func askLocal(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var err4, err6 error
	if err := raw.Control(func(fd uintptr) {
		err4 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		err6 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}); err != nil {
		return err
	}
	if err6 == nil {
		return nil // IPv6, both families included
	}
	return err4
}

// localOf finds the address of ours in the control messages of a datagram: the
// one it was sent to, or that of the interface where IPv4 broadcast came in. It
// is invalid where no answer can leave from, as with multicast.
func localOf(oob []byte) (local netip.Addr) {
	for len(oob) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
		length := int(h.Len)
		if length < unix.SizeofCmsghdr || length > len(oob) {
			break
		}
		data := oob[unix.CmsgLen(0):length]
		switch {
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			local = netip.AddrFrom16([16]byte(data[:16])).Unmap()
			if local.Is6() && local.IsLinkLocalUnicast() {
				// By number: the interface's name would cost a question to the kernel for each datagram.
				local = local.WithZone(strconv.Itoa(int(binary.NativeEndian.Uint32(data[16:20]))))
			}
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			local = netip.AddrFrom4([4]byte(data[4:8])) // ipi_spec_dst
		}
		oob = oob[min(len(oob), unix.CmsgSpace(length-unix.CmsgLen(0))):]
	}
	if local.IsMulticast() {
		return netip.Addr{}
	}
	return local
}

// fromLocal is the control message that makes a datagram leave a wildcard
// socket from that address. On a socket of both families IPv4 goes by its
// mapped form.
func fromLocal(ipv4 bool, local netip.Addr) []byte {
	if ipv4 {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: local.As4()})
	}
	info := unix.Inet6Pktinfo{Addr: local.As16()}
	if index, err := strconv.ParseUint(local.Zone(), 10, 32); err == nil {
		info.Ifindex = uint32(index)
	}
	return unix.PktInfo6(&info)
}
