package handler

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// admission counts the relays of a service, TCP and UDP together, against its
// limits.
//
// A client that closes its connection and comes back may arrive before the relay
// has noticed the close, so a TCP client that finds a limit reached is queued for
// a moment: the next relay that ends gives its place to the client that was queued
// first. It is not held in the sense of the option hold.
type admission struct {
	queueTime time.Duration // set once by tests on slow machines; 0: the constant queueTime

	mu    sync.Mutex // guards the fields below
	total int
	byIP  map[netip.Addr]int // relays that were admitted while max_connections_per_ip was set
	queue []*queuedClient    // in the order of their arrival
}

// Bounds of queued clients.
const (
	queueTime = 50 * time.Millisecond
	maxQueued = 256 // more are refused at once
)

// ticket is the place of an admitted relay. Pass it to leave.
type ticket struct {
	ip netip.Addr // that the relay was counted against; invalid: none
}

// queuedClient is a client that waits for a place.
type queuedClient struct {
	opts     *Options
	ip       netip.Addr
	admitted chan ticket // gets the place; has room for it
}

// admit counts one more relay, unless the address is not served or a limit is
// reached: the refusal is the reason then and is empty otherwise. The address may be
// IPv4-mapped.
func (a *admission) admit(opts *Options, ip netip.Addr) (ticket, Refusal) {
	if !opts.Clients.serves(ip) {
		return ticket{}, RefusedDenied
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.admitLocked(opts, ip.Unmap())
}

func (a *admission) admitLocked(opts *Options, ip netip.Addr) (ticket, Refusal) {
	if opts.MaxConnections > 0 && a.total >= opts.MaxConnections {
		return ticket{}, RefusedTooMany
	}
	var t ticket
	if opts.MaxConnectionsPerIP > 0 && ip.IsValid() {
		if a.byIP[ip] >= opts.MaxConnectionsPerIP {
			return ticket{}, RefusedTooManyIP
		}
		if a.byIP == nil {
			a.byIP = make(map[netip.Addr]int)
		}
		a.byIP[ip]++
		t.ip = ip
	}
	a.total++
	return t, ""
}

// enqueue admits a client or queues it. It returns nil if too many are queued. The
// caller waits with [admission.await].
func (a *admission) enqueue(opts *Options, ip netip.Addr) *queuedClient {
	q := &queuedClient{opts: opts, ip: ip.Unmap(), admitted: make(chan ticket, 1)}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch t, refusal := a.admitLocked(opts, q.ip); {
	case refusal == "":
		q.admitted <- t
	case len(a.queue) >= maxQueued:
		return nil
	default:
		a.queue = append(a.queue, q)
	}
	return q
}

// await waits until a queued client is admitted, at most for queueTime.
func (a *admission) await(q *queuedClient) (t ticket, ok bool) {
	timeout := time.NewTimer(cmp.Or(a.queueTime, queueTime))
	defer timeout.Stop()
	select {
	case t = <-q.admitted:
		return t, true
	case <-timeout.C:
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := slices.Index(a.queue, q); i >= 0 {
		a.queue = slices.Delete(a.queue, i, i+1)
		return ticket{}, false
	}
	return <-q.admitted, true // it was admitted just now
}

// leave counts a relay that has ended, and gives its place to a queued client.
func (a *admission) leave(t ticket) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.total--
	if t.ip.IsValid() {
		if a.byIP[t.ip]--; a.byIP[t.ip] == 0 {
			delete(a.byIP, t.ip)
		}
	}
	for i := 0; i < len(a.queue); {
		q := a.queue[i]
		t, refusal := a.admitLocked(q.opts, q.ip)
		if refusal != "" {
			i++
			continue
		}
		q.admitted <- t
		a.queue = slices.Delete(a.queue, i, i+1)
	}
}

// limitError is the error of a client that was refused at a limit.
type limitError struct {
	refusal Refusal
	limit   int
}

// Error implements error.
func (e limitError) Error() string { return fmt.Sprintf("%s: limit of %d reached", e.refusal, e.limit) }

// errDenied is the error of a client whose address is not served.
var errDenied = errors.New("address not allowed")

func (r Refusal) error(opts *Options) error {
	switch r {
	case RefusedDenied:
		return errDenied
	case RefusedTooManyIP:
		return limitError{r, opts.MaxConnectionsPerIP}
	}
	return limitError{r, opts.MaxConnections}
}

// ipOf returns the IP address of addr; invalid if addr has none.
func ipOf(addr net.Addr) netip.Addr {
	if tcp, ok := addr.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	ap, _ := netip.ParseAddrPort(addr.String())
	return ap.Addr().Unmap()
}
