package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"syscall"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// opener opens a socket with package net.
type opener func(cfg net.ListenConfig, network, address string) (syscall.Conn, error)

func listenTCP(cfg net.ListenConfig, network, address string) (syscall.Conn, error) {
	ln, err := cfg.Listen(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	return ln.(*net.TCPListener), nil
}

func listenUDP(cfg net.ListenConfig, network, address string) (syscall.Conn, error) {
	pc, err := cfg.ListenPacket(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	return pc.(*net.UDPConn), nil
}

// bind opens a socket on a port that no other program holds. If two programs
// shared the port, the kernel would distribute the clients between them at
// random. Sockets of this process may hold the port: those of a wider or narrower
// address, and during a reload those of Caddy's own networks.
//
// shared reports that the socket and the others of the port have SO_REUSEPORT.
// The caller holds s.binding, and calls
// [Sockets.endSharingOf] once the socket is in s.
func (s *Sockets) bind(network string, at netip.AddrPort, open opener) (socket syscall.Conn, shared bool, err error) {
	family, address := listenArgs(network, at)
	defer s.tables.bound(network, at.Port())
	socket, err = open(listenConfig(nil), family, address)
	for try := 0; errors.Is(err, syscall.EADDRINUSE) && try < 2; try++ {
		if reason := s.share(network, at); reason != nil {
			return nil, false, fmt.Errorf("%w: %w", err, reason)
		}
		shared = true
		socket, err = open(listenConfig(sharePort), family, address)
		s.tables.bound(network, at.Port()) // if that failed, a table was outdated
	}
	if errors.Is(err, fs.ErrPermission) {
		if advice := BindAdvice(at.Port()); advice != "" {
			err = fmt.Errorf("%w: %s", err, advice)
		}
	}
	return socket, shared, err
}

// BindAdvice returns what to do when this process may not listen on a port, or "" if
// that does not depend on the port.
func BindAdvice(port uint16) string {
	switch {
	case !netio.Privileged(int(port)):
		return ""
	case runtime.GOOS == "linux":
		return fmt.Sprintf("port %d needs CAP_NET_BIND_SERVICE: run setcap cap_net_bind_service=+ep on the caddy binary, or set AmbientCapabilities=CAP_NET_BIND_SERVICE in its systemd unit", port)
	}
	return fmt.Sprintf("port %d needs the rights of root", port)
}

// listenArgs returns the network and address for package net. An IPv4 address
// accepts IPv4 clients only. The IPv6 wildcard accepts both families. It is
// passed as an empty host and not as "[::]", because package net then falls back
// to IPv4 on a system without IPv6.
func listenArgs(network string, at netip.AddrPort) (family, address string) {
	switch addr := at.Addr(); {
	case addr.Is4():
		return network + "4", at.String()
	case addr.IsUnspecified():
		return network, ":" + strconv.Itoa(int(at.Port()))
	default:
		return network + "6", at.String()
	}
}

// listenConfig returns a config without Multipath TCP: the kernel cannot splice
// MPTCP sockets.
func listenConfig(control func(network, address string, raw syscall.RawConn) error) net.ListenConfig {
	cfg := net.ListenConfig{Control: control}
	cfg.SetMultipathTCP(false)
	return cfg
}

// Overlap reports whether two addresses have an IP address in common. "::" has
// those of both families.
func Overlap(one, other netip.Addr) bool {
	one, other = one.Unmap().WithZone(""), other.Unmap().WithZone("")
	switch {
	case one == other, one == netip.IPv6Unspecified(), other == netip.IPv6Unspecified():
		return true
	case one == netip.IPv4Unspecified():
		return other.Is4()
	case other == netip.IPv4Unspecified():
		return one.Is4()
	default:
		return false
	}
}
