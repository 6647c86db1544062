package netio

import (
	"errors"
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
	var quoted [1]byte // the rest of the datagram that the message quotes is not needed
	var messages [256]byte
	for {
		_, n, _, to, err := unix.Recvmsg(fd, quoted[:], messages[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return QueuedError{}, err
		}
		if e, ok := queuedError(messages[:n]); ok {
			e.To = addrPortOf(to)
			return e, nil
		}
	}
}

// queuedError returns the ICMP error of an entry's control messages. ok is false
// for an entry of another origin: the kernel also queues an error that the call
// which caused it has returned.
func queuedError(messages []byte) (e QueuedError, ok bool) {
	list, err := unix.ParseSocketControlMessage(messages)
	if err != nil {
		return e, false
	}
	const size = int(unsafe.Sizeof(unix.SockExtendedErr{}))
	for _, m := range list {
		isError := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR ||
			m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if !isError || len(m.Data) < size+unix.SizeofSockaddrInet4 {
			continue
		}
		head := (*unix.SockExtendedErr)(unsafe.Pointer(&m.Data[0]))
		if head.Origin != unix.SO_EE_ORIGIN_ICMP && head.Origin != unix.SO_EE_ORIGIN_ICMP6 {
			continue
		}
		var from sockaddr // of the host that sent the message; see SO_EE_OFFENDER
		copy((*[unix.SizeofSockaddrInet6]byte)(unsafe.Pointer(&from.raw))[:], m.Data[size:])
		return QueuedError{Errno: syscall.Errno(head.Errno), From: from.addrPort().Addr().WithZone("")}, true
	}
	return e, false
}

func addrPortOf(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// PeerAddr returns the address that a socket is connected to.
func PeerAddr(fd int) (netip.AddrPort, error) {
	name, err := unix.Getpeername(fd)
	return addrPortOf(name), err
}
