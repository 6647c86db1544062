package handler

import (
	"net"
	"net/netip"
	"sync"
)

// admission counts the relays of a service, TCP and UDP together, against its
// limits.
type admission struct {
	mu    sync.Mutex // guards the fields below
	total int
	byIP  map[netip.Addr]int // relays that were admitted while max_connections_per_ip was set
}

// ticket reports whether an admitted relay was counted against its address.
// Pass it to leave.
type ticket bool

// admit counts one more relay, unless a limit is reached: the refusal names that
// limit then and is empty otherwise.
func (a *admission) admit(opts *Options, ip netip.Addr) (ticket, Refusal) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if opts.MaxConnections > 0 && a.total >= opts.MaxConnections {
		return false, RefusedTooMany
	}
	var t ticket
	if opts.MaxConnectionsPerIP > 0 && ip.IsValid() {
		if a.byIP[ip] >= opts.MaxConnectionsPerIP {
			return false, RefusedTooManyIP
		}
		if a.byIP == nil {
			a.byIP = make(map[netip.Addr]int)
		}
		a.byIP[ip]++
		t = true
	}
	a.total++
	return t, ""
}

// leave counts a relay that has ended.
func (a *admission) leave(t ticket, ip netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.total--
	if !t {
		return
	}
	if a.byIP[ip]--; a.byIP[ip] == 0 {
		delete(a.byIP, ip)
	}
}

// ipOf returns the IP address of addr; invalid if addr has none.
func ipOf(addr net.Addr) netip.Addr {
	if tcp, ok := addr.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	ap, _ := netip.ParseAddrPort(addr.String())
	return ap.Addr().Unmap()
}
