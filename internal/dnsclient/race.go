package dnsclient

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// headStart is how long a server may be silent before the next one is queried in
// parallel. A dead first server thus costs a lookup not more than that.
const headStart = 200 * time.Millisecond

// exchanger exchanges messages with one server.
type exchanger interface {
	// exchange sends a query and returns the reply to it. It may be called
	// concurrently, and returns when ctx ends.
	exchange(ctx context.Context, query []byte) (reply, error)
	// String returns the server as errors name it.
	String() string
	// close closes idle connections.
	close()
}

// race queries servers in order of preference, as described at [Config.Servers]. It
// returns the first reply that is an answer or "no such host", or else the errors of
// all servers as [net.DNSError]s. It runs one goroutine for each queried server, and
// waits for them.
func race(ctx context.Context, servers []exchanger, query []byte) (reply, error) {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	type result struct {
		reply reply
		err   error
	}
	results := make(chan result, len(servers)) // has room for all, so sending never blocks
	next := 0
	queryNext := func() {
		server := servers[next]
		next++
		running.Go(func() {
			r, err := server.exchange(ctx, query)
			r.server = server.String()
			if err == nil {
				switch rcode := rcodeOf(r.msg); rcode {
				case dns.RcodeSuccess, dns.RcodeNameError:
				default:
					err = errors.New(rcodeError(rcode))
				}
			}
			if err != nil {
				err = serverError(server.String(), err)
			}
			results <- result{r, err}
		})
	}
	queryNext()
	silent := time.NewTicker(headStart)
	defer silent.Stop()
	var errs []error
	for {
		select {
		case r := <-results:
			if r.err == nil {
				return r.reply, nil
			}
			if errs = append(errs, r.err); len(errs) == len(servers) {
				return reply{}, errors.Join(errs...)
			}
		case <-silent.C:
		}
		if next < len(servers) {
			queryNext()
			silent.Reset(headStart)
		}
	}
}

// serverError returns err as the error of a server, which implements [net.Error].
func serverError(server string, err error) error {
	var timeout net.Error
	isTimeout := errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
	text := err.Error()
	if isTimeout {
		text = "no answer in time"
	}
	return &net.DNSError{Err: text, Server: server, IsTimeout: isTimeout, IsTemporary: true, UnwrapErr: err}
}
