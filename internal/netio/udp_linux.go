package netio

import (
	"errors"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// ConnectUDP opens a nonblocking socket that sends to addr and receives from it
// only.
func ConnectUDP(addr netip.AddrPort) (fd int, err error) {
	peer, err := peerSockaddr(addr)
	if err != nil {
		return -1, err
	}
	n, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(peer.raw.Family), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if errno != 0 {
		return -1, os.NewSyscallError("socket", errno)
	}
	fd = int(n)
	if err := connectUDP(fd, &peer); err != nil {
		CloseDescriptor(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

// connectUDP sets the peer of a socket. A backend may be a broadcast address,
// which needs SO_BROADCAST; package net sets it on all sockets.
func connectUDP(fd int, peer *sockaddr) error {
	err := peer.connectNonblock(fd)
	if errors.Is(err, unix.EACCES) {
		SetOption(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
		err = peer.connectNonblock(fd)
	}
	return err
}

// ReconnectUDP connects a socket that [DisconnectUDP] has disconnected to an
// address of the same family, from another port. It first discards what the
// socket received from its former peer.
func ReconnectUDP(fd int, addr netip.AddrPort) error {
	if err := discardReceived(fd); err != nil {
		return err
	}
	peer, err := peerSockaddr(addr)
	if err != nil {
		return err
	}
	return os.NewSyscallError("connect", connectUDP(fd, &peer))
}

// maxDiscarded bounds the datagrams that discardReceived reads: reading more
// than these costs more than another socket.
const maxDiscarded = 1000

// discardReceived empties the receive queue of a disconnected socket, which
// receives nothing any more. The error is EBUSY if it held maxDiscarded
// datagrams or more.
func discardReceived(fd int) error {
	var one [1]byte
	for range maxDiscarded {
		if _, errno := ReadNonblock(fd, one[:]); errno == unix.EAGAIN {
			return nil
		}
	}
	return os.NewSyscallError("recvfrom", unix.EBUSY)
}

// DisconnectUDP removes the peer of a socket and releases its port, so that
// nothing reaches the socket any more. See AF_UNSPEC in connect(2).
func DisconnectUDP(fd int) error {
	unspecified := sockaddr{length: unix.SizeofSockaddrInet4} // the zero family is AF_UNSPEC
	return unspecified.connectNonblock(fd)
}
