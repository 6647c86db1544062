package netio

import (
	"errors"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// SetReusePort sets or clears SO_REUSEPORT. A port can be bound again while all
// sockets bound to it have this option and belong to one user (see socket(7)).
func SetReusePort(fd int, on bool) syscall.Errno {
	value := 0
	if on {
		value = 1
	}
	return SetOption(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, value)
}

// Addresses that no machine has (RFC 5737, RFC 3849), for MakeTCPPortExclusive.
var (
	unusedIPv4  = netip.MustParseAddr("192.0.2.1")
	unusedIPv6  = netip.MustParseAddr("2001:db8::1")
	anotherIPv4 = netip.MustParseAddr("198.51.100.1")
)

// MakeTCPPortExclusive makes the kernel forget that a TCP port was bound with
// SO_REUSEPORT. It returns false if the kernel still allows further binds. The
// caller has cleared the option of its sockets. setShared sets or clears it again.
//
// Clearing it is not enough: the kernel remembers for each TCP port the address of
// the last bind with the option (fastreuseport in inet_csk_get_port), and lets the
// same user bind that address again without looking at the options of the sockets.
// So this function binds sockets, which never listen and thus get no clients:
//
//  1. A bind without the option ends the memory. It must not conflict with the
//     sockets of the port. With a socket on all IPv4 and IPv6 addresses every bind
//     does, unless the process has CAP_NET_ADMIN.
//  2. A bind with the option replaces the address that the kernel remembers by an
//     unused one. It cannot replace a wildcard address.
func MakeTCPPortExclusive(port uint16, setShared func(on bool)) bool {
	four, six := netip.AddrPortFrom(unusedIPv4, port), netip.AddrPortFrom(unusedIPv6, port)
	if bindOnce(four, unix.SO_REUSEADDR) == nil || bindOnce(six, unix.SO_REUSEADDR) == nil || bindOnce(four, forceReuse) == nil {
		return true
	}
	setShared(true)
	_ = bindOnce(four, unix.SO_REUSEPORT)
	setShared(false)
	// Only if the kernel remembers a wildcard, another address can be bound.
	return bindOnce(netip.AddrPortFrom(anotherIPv4, port), unix.SO_REUSEPORT) != nil
}

// forceReuse stands for TCP_REPAIR, which skips the kernel's check for conflicts.
const forceReuse = -1

// bindOnce binds a TCP socket with one option to an address, which need not be
// one of this machine, and closes the socket.
func bindOnce(at netip.AddrPort, option int) error {
	address, err := peerSockaddr(at)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(int(address.raw.Family), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer CloseDescriptor(fd)
	SetOption(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
	if at.Addr().Is6() {
		SetOption(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	errno := syscall.Errno(0)
	if option == forceReuse {
		errno = SetOption(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1)
	} else {
		errno = SetOption(fd, unix.SOL_SOCKET, option, 1)
	}
	if errno != 0 {
		return os.NewSyscallError("setsockopt", errno)
	}
	return os.NewSyscallError("bind", address.bind(fd))
}

// SocketInode returns the number by which /proc/self/net names a socket.
func SocketInode(fd int) (uint64, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return 0, errors.New("not a socket")
	}
	return stat.Ino, nil
}

// ProcessSockets returns the inodes of all sockets of this process (see
// [SocketInode]). It takes milliseconds where thousands of descriptors are open.
func ProcessSockets() (map[uint64]bool, error) {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	inodes := make(map[uint64]bool)
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if inode, err := SocketInode(fd); err == nil {
			inodes[inode] = true
		}
	}
	return inodes, nil
}
