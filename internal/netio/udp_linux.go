package netio

import (
	"errors"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// ConnectUDP opens a nonblocking socket that sends to addr and receives from it
// only. The socket queues the ICMP errors that it receives, see
// [ReadErrorNonblock]. port is its local port.
func ConnectUDP(addr netip.AddrPort) (fd int, port uint16, err error) {
	peer, err := peerSockaddr(addr)
	if err != nil {
		return -1, 0, err
	}
	n, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(peer.raw.Family), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if errno != 0 {
		return -1, 0, os.NewSyscallError("socket", errno)
	}
	fd = int(n)
	if ReservedFromUDP(fd) {
		CloseDescriptor(fd)
		return -1, 0, os.NewSyscallError("socket", errReservedFromUDP)
	}
	enableErrorQueue(fd, peer.raw.Family == unix.AF_INET)
	if port, err = connectUDP(fd, &peer); err != nil {
		CloseDescriptor(fd)
		return -1, 0, os.NewSyscallError("connect", err)
	}
	return fd, port, nil
}

// connectUDP sets the peer of a socket and returns the local port. A backend may
// be a broadcast address, which needs SO_BROADCAST; package net sets it on all
// sockets. The error is ECONNREFUSED if the kernel chose the peer's own port as
// the local port: the socket would receive what it sends.
func connectUDP(fd int, peer *sockaddr) (port uint16, err error) {
	err = peer.connectNonblock(fd)
	if errors.Is(err, unix.EACCES) {
		SetOption(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
		err = peer.connectNonblock(fd)
	}
	if err != nil {
		return 0, err
	}
	local, err := LocalAddr(fd)
	if err == nil && local.Port() == peer.addrPort().Port() {
		// The kernel connects an unspecified address to loopback.
		if at, err := PeerAddr(fd); err == nil && at == local {
			return 0, unix.ECONNREFUSED
		}
	}
	return local.Port(), err
}

// ReconnectUDP connects a socket that [DisconnectUDP] has disconnected to a peer of
// the same address family, from another port. The socket may still receive
// datagrams that were sent to its old port. Distinguish them by [DestinationPort].
func ReconnectUDP(fd int, addr netip.AddrPort) (port uint16, err error) {
	peer, err := peerSockaddr(addr)
	if err != nil {
		return 0, err
	}
	port, err = connectUDP(fd, &peer)
	return port, os.NewSyscallError("connect", err)
}

// DisconnectUDP removes the peer of a socket and releases its port. See AF_UNSPEC
// in connect(2).
func DisconnectUDP(fd int) error {
	unspecified := sockaddr{length: unix.SizeofSockaddrInet4} // the zero family is AF_UNSPEC
	return unspecified.connectNonblock(fd)
}
