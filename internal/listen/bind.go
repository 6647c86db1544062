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

// opener opens a socket of package net.
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

// bind opens a socket that nobody else has: not another program, whose clients
// the kernel would deal out between us at random. Within this process an
// address may be shared for the length of a reload: with a socket of a wider
// or narrower address, or with one of Caddy's own networks.
func bind(network string, at netip.AddrPort, open opener) (syscall.Conn, error) {
	network, address := socketOf(network, at)
	socket, err := open(plain(nil), network, address)
	if errors.Is(err, syscall.EADDRINUSE) {
		if !heldByUs(network, at.Port()) {
			return nil, fmt.Errorf("%w: another program holds port %d; stop it or choose another port", err, at.Port())
		}
		socket, err = open(plain(sharePort), network, address)
	}
	if err != nil {
		return nil, err
	}
	// From now on another socket of this process may join, if it asks to.
	if raw, err := socket.SyscallConn(); err == nil {
		_ = sharePort("", "", raw)
	}
	return socket, nil
}

// socketOf is what package net calls a socket at that address: an IPv4 address
// never takes IPv6 clients; the IPv6 wildcard takes both, or IPv4 alone on a
// system that was booted without IPv6, which is why it is not spelled "[::]".
func socketOf(network string, at netip.AddrPort) (family, address string) {
	switch addr := at.Addr(); {
	case addr.Is4():
		return network + "4", at.String()
	case addr.IsUnspecified():
		return network, ":" + strconv.Itoa(int(at.Port()))
	default:
		return network + "6", at.String()
	}
}

// plain asks for TCP without Multipath TCP, which nobody asked for and whose
// sockets the kernel does not splice.
func plain(control func(network, address string, raw syscall.RawConn) error) net.ListenConfig {
	cfg := net.ListenConfig{Control: control}
	cfg.SetMultipathTCP(false)
	return cfg
}
