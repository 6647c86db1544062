package listen

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
)

// Sockets holds the open sockets of a process. Its lock is held while a socket
// is opened or closed, so that one is never bound twice and never found while
// it closes. The locks of listeners are taken below it; those of clients and of
// a socket's table are held alone.
type Sockets struct {
	mu  sync.Mutex // guards the maps and the count of users of each socket
	tcp map[netip.AddrPort]*tcpSocket
	udp map[netip.AddrPort]*udpSocket

	dropped atomic.Uint64
}

// NewSockets makes an empty set.
func NewSockets() *Sockets {
	return &Sockets{tcp: make(map[netip.AddrPort]*tcpSocket), udp: make(map[netip.AddrPort]*udpSocket)}
}

// Dropped is how many datagrams there was no room for so far, in the queue of
// their client or for another client.
func (s *Sockets) Dropped() uint64 { return s.dropped.Load() }

// Address is where a socket is bound: no host is every address of both
// families, as is "::"; "0.0.0.0" is those of IPv4 alone; a name is looked up.
func Address(host string, port uint16) (netip.AddrPort, error) {
	if port == 0 {
		return netip.AddrPort{}, fmt.Errorf("%s: a port from 1 to 65535 is needed", net.JoinHostPort(host, "0"))
	}
	if host == "" {
		return netip.AddrPortFrom(netip.IPv6Unspecified(), port), nil
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return netip.AddrPortFrom(addr.Unmap(), port), nil
	}
	found, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
	if err != nil {
		return netip.AddrPort{}, err
	}
	at := found.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), port), nil
}
