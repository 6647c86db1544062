package resolver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// headStart is how long a server may be silent before the next one is queried in parallel.
const headStart = time.Second

// lookupFunc has the contract of Config.Lookup.
type lookupFunc func(ctx context.Context, host string) ([]netip.Addr, error)

// serverList queries DNS servers in order of preference, as described at Config.Servers.
type serverList struct {
	lookups   []lookupFunc // one per server
	headStart time.Duration
}

func newServerList(addrs []netip.AddrPort) *serverList {
	s := &serverList{headStart: headStart}
	for _, addr := range addrs {
		s.lookups = append(s.lookups, lookupOn(addr))
	}
	return s
}

// reply is the result of one server.
type reply struct {
	addrs []netip.Addr
	err   error
}

// lookup queries the servers. It returns the first reply that is an answer or "no such host", or else
// the errors of all servers. It runs one goroutine for each queried server, and waits for them.
func (s *serverList) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	var queries sync.WaitGroup
	defer queries.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	replies := make(chan reply, len(s.lookups)) // has room for all, so sending never blocks
	next := 0
	queryNext := func() {
		lookup := s.lookups[next]
		next++
		queries.Go(func() {
			addrs, err := lookup(ctx, host)
			replies <- reply{addrs, err}
		})
	}
	queryNext()
	tick := time.NewTicker(s.headStart)
	defer tick.Stop()
	var errs []error
	for {
		select {
		case r := <-replies:
			if r.err == nil || isNoSuchHost(r.err) {
				return r.addrs, r.err
			}
			if errs = append(errs, r.err); len(errs) == len(s.lookups) {
				return nil, errors.Join(errs...)
			}
		case <-tick.C:
		}
		if next < len(s.lookups) {
			queryNext()
			tick.Reset(s.headStart)
		}
	}
}

func isNoSuchHost(err error) bool {
	var dnsErr *net.DNSError
	return errors.As(err, &dnsErr) && dnsErr.IsNotFound
}

// lookupOn returns a function that queries one server with Go's own resolver. That resolver reads the
// hosts file, queries A and AAAA, and repeats a query over TCP if the answer is truncated. It is
// configured for the servers of the system, but all of its connections are redirected to this server.
func lookupOn(server netip.AddrPort) lookupFunc {
	resolver := &net.Resolver{PreferGo: true, Dial: dialTo(server)}
	return asWritten(server, resolver.LookupNetIP)
}

// asWritten wraps lookup so that it queries names as written: it adds the trailing dot, which disables
// search domains. In errors it replaces the server by the one that was queried, and removes the dot.
func asWritten(server netip.AddrPort, lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)) lookupFunc {
	return func(ctx context.Context, host string) ([]netip.Addr, error) {
		addrs, err := lookup(ctx, "ip", host+".")
		var dnsErr *net.DNSError
		if errors.As(err, &dnsErr) {
			corrected := *dnsErr
			corrected.Name, corrected.Server = host, server.String()
			err = &corrected
		}
		return addrs, err
	}
}

// dialTo returns a dial function that connects to server and ignores the given address. It closes its
// connections when ctx ends. Go's resolver would only give them a deadline, and so continue to read
// from a silent server for seconds after a lookup was canceled.
func dialTo(server netip.AddrPort) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, server.String())
		if err == nil {
			context.AfterFunc(ctx, func() { conn.Close() })
		}
		return conn, err
	}
}
