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
	if table := s.tables.recent(network, at.Port()); table != nil && s.shareBy(table, network, at) == nil {
		return nil
	}
	for reads := 1; ; reads++ {
		table, err := s.tables.read(network)
		if err != nil {
			return fmt.Errorf("the holder of the port is unknown: %w; remove other addresses with this port in one reload and add this one in the next", err)
		}
		if len(table.holders(at)) > 0 || reads == maxTableReads {
			return s.shareBy(table, network, at)
		}
	}
}

// maxTableReads is how often the kernel's table is read for a port that is in use and
// not listed. The kernel writes the table page by page, and leaves sockets out if it
// closes others in between.
const maxTableReads = 5

// shareBy is share with the sockets that a table lists.
func (s *Sockets) shareBy(table *table, network string, at netip.AddrPort) error {
	holders := table.holders(at)
	var ours []boundSocket
	var others []holder
	for _, h := range holders {
		if socket := s.socketOf(network, h); socket != nil {
			ours = append(ours, socket)
		} else {
			others = append(others, h)
		}
	}
	if len(others) > 0 {
		process, err := table.processSockets()
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
	for _, socket := range ours {
		setShared(socket, true)
	}
	return nil
}

// socketOf returns the socket of ours that is a holder, or nil.
func (s *Sockets) socketOf(network string, h holder) boundSocket {
	if socket := s.openedAt(network, h.at); socket != nil && inodeOf(socket) == h.inode {
		return socket
	}
	if !h.at.Addr().IsLinkLocalUnicast() {
		return nil
	}
	for _, socket := range s.opened(network) { // the kernel's table has no zones
		if socket.address().Port() == h.at.Port() && inodeOf(socket) == h.inode {
			return socket
		}
	}
	return nil
}

// openedAt returns the open socket of a network at an address, or nil. The caller
// holds s.binding.
func (s *Sockets) openedAt(network string, at netip.AddrPort) boundSocket {
	if network == "tcp" {
		if socket := s.tcp[at]; socket != nil {
			return socket
		}
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if socket := s.udp[at]; socket != nil {
		return socket
	}
	return nil
}

// inodeOf returns the inode of a socket, or 0 if the socket is closed.
func inodeOf(socket boundSocket) (inode uint64) {
	_ = socket.control(func(fd uintptr) { inode, _ = netio.SocketInode(int(fd)) })
	return inode
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
