package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
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
// random. Sockets of this process may share the port during a reload: those of a
// wider or narrower address, and those of Caddy's own networks.
func bind(network string, at netip.AddrPort, open opener) (syscall.Conn, error) {
	network, address := listenArgs(network, at)
	socket, err := open(listenConfig(nil), network, address)
	if errors.Is(err, syscall.EADDRINUSE) {
		if !heldByUs(network, at.Port()) {
			return nil, fmt.Errorf("%w: another program holds port %d; stop it or choose another port", err, at.Port())
		}
		socket, err = open(listenConfig(sharePort), network, address)
	}
	if err != nil {
		return nil, err
	}
	// Another socket of this process may share the port from now on.
	if raw, err := socket.SyscallConn(); err == nil {
		_ = sharePort("", "", raw)
	}
	return socket, nil
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
