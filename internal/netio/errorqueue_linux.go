package netio

import (
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel reports an ICMP error twice: it fails the next call on the socket,
// whatever that call is, and it adds an entry to the socket's error queue
// (IP_RECVERR of ip(7)). Only the entry tells who sent the message, and only the
// entry is not lost if the failed call was in the middle of a sendmmsg(2).

// enableErrorQueue makes a socket queue ICMP errors.
func enableErrorQueue(fd int, ipv4 bool) {
	if ipv4 {
		SetOption(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
	} else {
		SetOption(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
	}
}

// EnableErrorQueue makes a socket of package net queue ICMP errors. Read them
// with [QueuedErrors]. It returns false where the system has no such queue.
func EnableErrorQueue(conn *net.UDPConn) bool {
	ipv4 := conn.RemoteAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().Is4()
	return control(conn, func(fd int) { enableErrorQueue(fd, ipv4) })
}

// maxQueuedErrors bounds the errors that one call of QueuedErrors returns.
const maxQueuedErrors = 64

// QueuedErrors removes and returns the errors in a socket's queue.
func QueuedErrors(conn *net.UDPConn) (list []QueuedError) {
	control(conn, func(fd int) {
		for len(list) < maxQueuedErrors {
			e, err := ReadErrorNonblock(fd)
			if err != nil {
				return
			}
			list = append(list, e)
		}
	})
	return list
}

// ReadErrorNonblock removes the first ICMP error from a socket's error queue. It
// never blocks: the error is EAGAIN if the queue holds none.
func ReadErrorNonblock(fd int) (QueuedError, error) {
	var to sockaddr
	var messages [256]byte
	var datagram unix.Iovec // of no length, so the quoted datagram is not received
	for {
		h := header{Msghdr: unix.Msghdr{Name: (*byte)(unsafe.Pointer(&to.raw)), Namelen: unix.SizeofSockaddrInet6, Iov: &datagram, Control: &messages[0]}}
		h.SetIovlen(1) // with 0, qemu-user reports success without calling the kernel
		h.SetControllen(len(messages))
		if err := recvErrorNonblock(fd, &h); err != nil {
			return QueuedError{}, err
		}
		if e, ok := queuedError(messages[:min(int(h.Controllen), len(messages))]); ok {
			e.To = to.addrPort()
			return e, nil
		}
	}
}

// recvErrorNonblock calls recvmsg(2) for the error queue.
func recvErrorNonblock(fd int, h *header) error {
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&h.Msghdr)), unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// queuedError returns the ICMP error of an entry's control messages. ok is false
// for an entry of another origin: the kernel also queues an error that the call
// which caused it has returned.
func queuedError(control []byte) (e QueuedError, ok bool) {
	const size = int(unsafe.Sizeof(unix.SockExtendedErr{}))
	for m, rest, more := nextMessage(control); more; m, rest, more = nextMessage(rest) {
		isError := m.is(unix.IPPROTO_IP, unix.IP_RECVERR) || m.is(unix.IPPROTO_IPV6, unix.IPV6_RECVERR)
		if !isError || len(m.data) < size+unix.SizeofSockaddrInet4 {
			continue
		}
		head := (*unix.SockExtendedErr)(unsafe.Pointer(&m.data[0]))
		switch head.Origin {
		case unix.SO_EE_ORIGIN_ICMP:
			e.Fragment = head.Type == icmpTimeExceeded && head.Code == icmpReassembly
		case unix.SO_EE_ORIGIN_ICMP6:
			e.Fragment = head.Type == icmp6TimeExceeded && head.Code == icmpReassembly
		default:
			continue
		}
		var from sockaddr // of the host that sent the message; see SO_EE_OFFENDER
		copy((*[unix.SizeofSockaddrInet6]byte)(unsafe.Pointer(&from.raw))[:], m.data[size:])
		e.Errno, e.From = syscall.Errno(head.Errno), from.addrPort().Addr().WithZone("")
		return e, true
	}
	return e, false
}

// Types and codes of ICMP (RFC 792) and ICMPv6 (RFC 4443).
const (
	icmpTimeExceeded  = 11
	icmp6TimeExceeded = 3
	icmpReassembly    = 1 // code of both: fragment reassembly time exceeded
)

// PeerAddr returns the address that a socket is connected to. A zone is the index
// of an interface, see [ZoneName].
func PeerAddr(fd int) (netip.AddrPort, error) {
	var s sockaddr
	s.length = unix.SizeofSockaddrInet6
	_, _, errno := unix.RawSyscall(unix.SYS_GETPEERNAME, uintptr(fd), uintptr(unsafe.Pointer(&s.raw)), uintptr(unsafe.Pointer(&s.length)))
	if errno != 0 {
		return netip.AddrPort{}, errno
	}
	return s.addrPort(), nil
}
