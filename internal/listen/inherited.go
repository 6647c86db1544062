package listen

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// SocketAddress identifies a socket.
type SocketAddress struct {
	Network string // "tcp" or "udp"
	At      netip.AddrPort
}

func (a SocketAddress) String() string { return a.Network + " " + a.At.String() }

// Inherited is a bound socket that another process has passed to this one: the
// service manager at the start (socket activation), or the process that this one
// replaces.
type Inherited struct {
	SocketAddress
	File   *os.File
	Number int    // of the descriptor, by which a config can list it; 0: by its address only
	Name   string // by which a config can list it; "": none
}

// inheritance is an inherited socket. A listener on its address uses it.
type inheritance struct {
	Inherited
	kept     bool // for good, because the service manager keeps it too; else until Begin
	expected bool // another process takes its clients until Begin
}

// InheritedSocket returns the socket of a file, which must be a listening TCP socket or
// a bound UDP socket. The file belongs to the result.
func InheritedSocket(file *os.File) (Inherited, error) {
	if ln, err := net.FileListener(file); err == nil {
		defer ln.Close()
		if tcp, ok := ln.(*net.TCPListener); ok {
			return Inherited{SocketAddress: SocketAddress{"tcp", boundAt(tcp.Addr().(*net.TCPAddr).AddrPort())}, File: file}, nil
		}
		return Inherited{}, fmt.Errorf("%s: a socket of the network %s, not tcp or udp", file.Name(), ln.Addr().Network())
	}
	pc, err := net.FilePacketConn(file)
	if err != nil {
		return Inherited{}, fmt.Errorf("%s: neither a listening TCP socket nor a UDP socket: %w", file.Name(), err)
	}
	defer pc.Close()
	udp, ok := pc.(*net.UDPConn)
	if !ok {
		return Inherited{}, fmt.Errorf("%s: a socket of the network %s, not tcp or udp", file.Name(), pc.LocalAddr().Network())
	}
	return Inherited{SocketAddress: SocketAddress{"udp", boundAt(udp.LocalAddr().(*net.UDPAddr).AddrPort())}, File: file}, nil
}

func boundAt(at netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// Inherit adds sockets that the service manager holds. A listener on the address of
// one uses it and binds nothing. It stays open when its listeners are closed, so that
// clients wait for a config, or for the next process. When the process is exiting, a
// UDP socket is not read any more after its last listener was closed, because the
// datagrams of new clients are for the next process, and nothing else can tell them
// from those of old ones.
func (s *Sockets) Inherit(sockets ...Inherited) {
	s.binding.Lock()
	defer s.binding.Unlock()
	for _, socket := range sockets {
		s.inherited[socket.SocketAddress] = &inheritance{Inherited: socket, kept: true}
	}
}

// FindInherited returns the address of the socket that a config lists as name, which is
// the number of its descriptor or its name.
func (s *Sockets) FindInherited(network, name string) (netip.AddrPort, error) {
	s.binding.Lock()
	defer s.binding.Unlock()
	number, _ := strconv.Atoi(name)
	var found, all []*inheritance
	for _, socket := range s.inherited {
		if socket.Number == 0 {
			continue
		}
		all = append(all, socket)
		if socket.Number == number || socket.Name == name {
			found = append(found, socket)
		}
	}
	if len(all) == 0 {
		return netip.AddrPort{}, errNothingInherited()
	}
	if len(found) == 0 {
		return netip.AddrPort{}, fmt.Errorf("no socket of this name or number was passed to this process (have %s)", describe(all))
	}
	var usable []*inheritance
	for _, socket := range found {
		if socket.Network == network {
			usable = append(usable, socket)
		}
	}
	switch len(usable) {
	case 0:
		return netip.AddrPort{}, fmt.Errorf("no %s socket of this name or number was passed to this process (have %s)", network, describe(all))
	case 1:
		return usable[0].At, nil
	default:
		return netip.AddrPort{}, fmt.Errorf("several %s sockets have this name; list each by its number (have %s)", network, describe(all))
	}
}

// errNothingInherited says why there are no sockets to list.
func errNothingInherited() error {
	pid := os.Getenv("LISTEN_PID")
	switch {
	case os.Getenv("LISTEN_FDS") == "":
		return errors.New("no sockets were passed to this process (LISTEN_FDS is not set); start it by a systemd socket unit")
	case pid != strconv.Itoa(os.Getpid()):
		return fmt.Errorf("the sockets were passed to process %s (LISTEN_PID) and this is %d; a script that starts this program must use exec", pid, os.Getpid())
	default:
		return errors.New("no listening TCP socket and no UDP socket was passed to this process")
	}
}

// describe lists sockets for an error, by number.
func describe(sockets []*inheritance) string {
	list := make([]string, 0, len(sockets))
	slices.SortFunc(sockets, func(a, b *inheritance) int { return a.Number - b.Number })
	for _, socket := range sockets {
		text := fmt.Sprintf("fd/%d: %s", socket.Number, socket.SocketAddress)
		if socket.Name != "" {
			text += fmt.Sprintf(" %q", socket.Name)
		}
		list = append(list, text)
	}
	return strings.Join(list, ", ")
}

// open returns an inherited socket, or binds one, see [Sockets.bind]. The caller
// holds s.binding.
func (s *Sockets) open(network string, at netip.AddrPort, open opener) (socket syscall.Conn, shared bool, err error) {
	inherited := s.inherited[SocketAddress{network, at}]
	if inherited == nil {
		return s.bind(network, at, open)
	}
	if socket, err = inherited.socket(); err != nil {
		return nil, false, fmt.Errorf("socket that another process has passed: %w", err)
	}
	return socket, false, nil
}

// socket returns a duplicate of an inherited socket.
func (i *inheritance) socket() (syscall.Conn, error) {
	if i.Network == "tcp" {
		ln, err := net.FileListener(i.File)
		if err != nil {
			return nil, err
		}
		return ln.(*net.TCPListener), nil
	}
	pc, err := net.FilePacketConn(i.File)
	if err != nil {
		return nil, err
	}
	return pc.(*net.UDPConn), nil
}

// start starts a socket that was just opened, unless another process takes its
// clients until Begin. The caller holds s.binding.
func (s *Sockets) start(socket boundSocket) {
	if inherited := s.inherited[addressOf(socket)]; inherited != nil && inherited.expected {
		s.waiting = append(s.waiting, socket)
		return
	}
	socket.start()
}
