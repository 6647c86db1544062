package listen

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/takeover"
)

// Sockets holds the open sockets of a process.
//
// Two locks keep what delays configs away from clients. binding is held while a
// socket is opened, which may take long, and while a TCP socket is closed, so no
// address is bound twice. Only configs take it. mu is held for map operations, and
// clients take it too.
//
// Lock order: binding before mu before listeners.mu. Conn.mu and udpSocket.mu are
// never held together with another lock.
type Sockets struct {
	// FreeDescriptor frees a descriptor for a client, and reports whether it could.
	// It must be set before the first socket is opened; nil: there is no way.
	FreeDescriptor func() bool
	// Exiting reports whether the process is exiting, see [Sockets.Inherit]. It must be
	// set before the first socket is opened; nil: never.
	Exiting func() bool
	// TCPWatcher watches the TCP sockets, and UDPWatcher the UDP sockets, which then need
	// no goroutine of their own. They must be set before the first socket is opened; nil:
	// each socket has a goroutine.
	TCPWatcher Watcher
	UDPWatcher UDPWatcher

	binding   sync.Mutex                      // guards the fields up to mu, and tcpSocket.users
	tcp       map[netip.AddrPort]*tcpSocket   // by the address they are bound to
	configs   map[context.Context]*zap.Logger // see AddConfig
	tables    tables                          // see share
	inherited map[SocketAddress]*inheritance
	waiting   []boundSocket    // opened and not started, see Expect
	suspended []boundSocket    // by Suspend
	successor *takeover.Link   // to the process that has taken over from this one
	older     []*takeover.Link // to older processes that still have UDP clients

	mu  sync.Mutex // guards udp
	udp map[netip.AddrPort]*udpSocket

	batches batches // for what reads UDP sockets
	dropped atomic.Uint64
	crowded atomic.Int32 // above 0 while clients wait in tcpSocket.leaveReserve
}

// NewSockets returns an empty set.
func NewSockets() *Sockets {
	return &Sockets{
		tcp:       make(map[netip.AddrPort]*tcpSocket),
		configs:   make(map[context.Context]*zap.Logger),
		tables:    make(tables),
		inherited: make(map[SocketAddress]*inheritance),
		udp:       make(map[netip.AddrPort]*udpSocket),
	}
}

// Dropped returns the number of datagrams dropped so far because a queue, a table
// of clients or a socket buffer was full.
func (s *Sockets) Dropped() uint64 { return s.dropped.Load() }

// freeDescriptor frees a descriptor for a client, and reports whether it could.
func (s *Sockets) freeDescriptor() bool { return s.FreeDescriptor != nil && s.FreeDescriptor() }

// Address returns the address that a socket is bound to. An empty host and "::"
// mean all addresses of both families, "0.0.0.0" all IPv4 addresses. A host name is
// looked up.
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
