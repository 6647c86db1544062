package listen

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strconv"
	"syscall"

	"github.com/prometheus/procfs"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// sharePort sets SO_REUSEPORT. It has the form of [net.ListenConfig.Control].
func sharePort(_, _ string, raw syscall.RawConn) error {
	var errno syscall.Errno
	if err := raw.Control(func(fd uintptr) { errno = netio.SetReusePort(int(fd), true) }); err != nil {
		return err
	}
	if errno != 0 {
		return os.NewSyscallError("setsockopt", errno)
	}
	return nil
}

// setShared sets or clears SO_REUSEPORT of a socket. It does nothing if the socket
// is closed.
func setShared(socket boundSocket, on bool) {
	_ = socket.control(func(fd uintptr) { netio.SetReusePort(int(fd), on) })
}

// share makes it possible to bind one more socket to an address that is in use. It
// sets SO_REUSEPORT of our sockets there. It returns an error that names the
// holder if a holder is not ours.
//
// The sockets of Caddy's own networks have the option already. They may belong to
// the config before this one, so they are no obstacle during a reload.
//
// The caller holds s.binding.
func (s *Sockets) share(network string, at netip.AddrPort) error {
	holders, err := portHolders(network, at)
	if err != nil {
		return fmt.Errorf("the holder of the port is unknown: %w; remove other addresses with this port in one reload and add this one in the next", err)
	}
	ours := make(map[uint64]boundSocket)
	for _, socket := range s.opened(network) {
		_ = socket.control(func(fd uintptr) {
			if inode, err := netio.SocketInode(int(fd)); err == nil {
				ours[inode] = socket
			}
		})
	}
	others := slices.DeleteFunc(slices.Clone(holders), func(h holder) bool { return ours[h.inode] != nil })
	if len(others) > 0 {
		process, err := netio.ProcessSockets()
		if err != nil {
			return fmt.Errorf("the holder of %s %s is unknown: %w", network, others[0].at, err)
		}
		for _, other := range others {
			if !process[other.inode] {
				return fmt.Errorf("%s holds %s %s; %s", other.program(), network, other.at, advice(at, other.at))
			}
		}
		if !s.reloading() {
			return fmt.Errorf("this process holds %s %s outside of the relay's networks; choose another port", network, others[0].at)
		}
	}
	if len(holders) == 0 {
		return errors.New("the kernel lists no socket with this port; try again")
	}
	for _, h := range holders {
		if socket := ours[h.inode]; socket != nil {
			setShared(socket, true)
		}
	}
	return nil
}

// advice returns what to do about another program that holds an address.
func advice(wanted, held netip.AddrPort) string {
	if wanted.Addr().IsUnspecified() && !held.Addr().IsUnspecified() {
		return "list single addresses instead of all, or stop it"
	}
	return "stop it or choose another port"
}

// makeExclusive clears SO_REUSEPORT of sockets. It returns the addresses of the TCP
// sockets whose port the kernel still lets other programs of this user bind.
//
// Precondition: for each port, sockets has all our sockets of its network.
func makeExclusive(sockets []boundSocket) (shareable []netip.AddrPort) {
	byPort := make(map[uint16][]boundSocket) // TCP only
	for _, socket := range sockets {
		setShared(socket, false)
		if socket.network() == "tcp" {
			port := socket.address().Port()
			byPort[port] = append(byPort[port], socket)
		}
	}
	for port, sockets := range byPort {
		exclusive := netio.MakeTCPPortExclusive(port, func(on bool) {
			for _, socket := range sockets {
				setShared(socket, on)
			}
		})
		if !exclusive {
			for _, socket := range sockets {
				shareable = append(shareable, socket.address())
			}
		}
	}
	return shareable
}

// procSelf is the directory of this process in proc(5). Tests replace it.
var procSelf = "/proc/self"

// holder is a socket of any process.
type holder struct {
	at         netip.AddrPort
	inode, uid uint64
}

// portHolders returns the sockets that prevent a bind to an address: for UDP all
// that overlap it, for TCP those that listen or, if there are none, those of
// connections. It reads /proc/self/net and not /proc/net, which does not exist
// where proc(5) is mounted with subset=pid.
func portHolders(network string, at netip.AddrPort) ([]holder, error) {
	sockets, err := socketTable(network)
	if err != nil {
		return nil, err
	}
	var listening, connected []holder
	for _, socket := range sockets {
		addr, ok := netip.AddrFromSlice(socket.LocalAddr)
		if !ok || socket.LocalPort != uint64(at.Port()) || socket.Inode == 0 || !Overlap(addr, at.Addr()) {
			continue
		}
		h := holder{netip.AddrPortFrom(addr.Unmap(), at.Port()), socket.Inode, socket.UID}
		if network == "tcp" && socket.St != tcpListen {
			connected = append(connected, h)
		} else {
			listening = append(listening, h)
		}
	}
	if len(listening) == 0 {
		return connected, nil
	}
	return listening, nil
}

// tcpListen is the state of a listening socket in /proc/self/net/tcp (TCP_LISTEN).
const tcpListen = 0x0a

// socketTable returns the sockets of a network, for both families. A system
// without IPv6 has no table for it.
func socketTable(network string) (procfs.NetTCP, error) {
	proc, err := procfs.NewFS(procSelf)
	if err != nil {
		return nil, err
	}
	// Netlink, which is recommended instead, is blocked in sandboxes that have /proc/self/net.
	//lint:ignore SA1019 see above
	four, six := proc.NetTCP, proc.NetTCP6
	if network == "udp" {
		four = func() (procfs.NetTCP, error) { table, err := proc.NetUDP(); return procfs.NetTCP(table), err }
		six = func() (procfs.NetTCP, error) { table, err := proc.NetUDP6(); return procfs.NetTCP(table), err }
	}
	sockets, err := four()
	if err != nil {
		return nil, err
	}
	more, err := six()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return append(sockets, more...), nil
}

// program describes the program that holds a socket. Its name can be found only
// with the permission to see its descriptors.
func (h holder) program() string {
	if proc, err := procfs.NewDefaultFS(); err == nil {
		processes, _ := proc.AllProcs()
		link := fmt.Sprintf("socket:[%d]", h.inode)
		for _, process := range processes {
			targets, err := process.FileDescriptorTargets()
			if err != nil || !slices.Contains(targets, link) {
				continue
			}
			if name, err := process.Comm(); err == nil {
				return fmt.Sprintf("%s (pid %d)", name, process.PID)
			}
		}
	}
	id := strconv.FormatUint(h.uid, 10)
	if owner, err := user.LookupId(id); err == nil {
		return "a program of user " + owner.Username
	}
	return "a program of user " + id
}
