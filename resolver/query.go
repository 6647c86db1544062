package resolver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// headStart is how long a server may be silent before the next is asked alongside.
const headStart = time.Second

// askFunc asks for the addresses of host, as Config.Lookup does.
type askFunc func(ctx context.Context, host string) ([]netip.Addr, error)

// asker asks DNS servers in order of preference. See Config.Servers for how.
type asker struct {
	servers   []askFunc
	headStart time.Duration
}

func newAsker(servers []netip.AddrPort) *asker {
	a := &asker{headStart: headStart}
	for _, server := range servers {
		a.servers = append(a.servers, askServer(server))
	}
	return a
}

// reply is what one server said.
type reply struct {
	addrs []netip.Addr
	err   error
}

// lookup asks the servers and returns the first reply that settles the matter, or all errors. Its
// goroutines, one for each server asked, end before it does.
func (a *asker) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	replies := make(chan reply, len(a.servers)) // room for all: no goroutine ever waits to send
	next := 0
	askNext := func() {
		ask := a.servers[next]
		next++
		asking.Go(func() {
			addrs, err := ask(ctx, host)
			replies <- reply{addrs, err}
		})
	}
	askNext()
	tick := time.NewTicker(a.headStart)
	defer tick.Stop()
	var errs []error
	for {
		select {
		case r := <-replies:
			if r.err == nil || isNoSuchHost(r.err) {
				return r.addrs, r.err
			}
			if errs = append(errs, r.err); len(errs) == len(a.servers) {
				return nil, errors.Join(errs...)
			}
		case <-tick.C:
		}
		if next < len(a.servers) {
			askNext()
			tick.Reset(a.headStart)
		}
	}
}

func isNoSuchHost(err error) bool {
	var dnsErr *net.DNSError
	return errors.As(err, &dnsErr) && dnsErr.IsNotFound
}

// askServer returns a function that asks one server. Go's own resolver does the work: it reads the
// hosts file, asks for A and AAAA, and turns to TCP when an answer is truncated. It believes that it
// asks the servers of the system, but all of its connections go to this one.
func askServer(server netip.AddrPort) askFunc {
	resolver := &net.Resolver{PreferGo: true, Dial: dialTo(server)}
	return asWritten(server, resolver.LookupNetIP)
}

// asWritten makes lookup ask for names as written: rooted, so that it tries no search domains. Its
// errors name the server that was really asked, and the name without the dot.
func asWritten(server netip.AddrPort, lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)) askFunc {
	return func(ctx context.Context, host string) ([]netip.Addr, error) {
		addrs, err := lookup(ctx, "ip", host+".")
		var dnsErr *net.DNSError
		if errors.As(err, &dnsErr) {
			told := *dnsErr
			told.Name, told.Server = host, server.String()
			err = &told
		}
		return addrs, err
	}
}

// dialTo returns a dial function that goes to server, whatever address it is given. Its connections
// are closed when ctx ends: Go's resolver gives them a deadline, but would go on reading from a
// silent server for seconds after a lookup was given up.
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
