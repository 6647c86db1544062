package handler

import (
	"net"
	"net/netip"
	"sync"
)

// admission counts the relays of a service, TCP and UDP together, against its
// limits.
type admission struct {
	mu    sync.Mutex // guards what follows
	total int
	byIP  map[netip.Addr]int // those that were admitted while there was a limit for each
}

// ticket is what an admitted relay gives back at its end: whether it was
// counted for its address.
type ticket bool

// admit says whether there is room for one more. If there is not, the refusal
// says what is exhausted.
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

// ipOf is the address without its port; not valid where there is none.
func ipOf(addr net.Addr) netip.Addr {
	if tcp, ok := addr.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	ap, _ := netip.ParseAddrPort(addr.String())
	return ap.Addr().Unmap()
}
