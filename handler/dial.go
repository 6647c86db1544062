package handler

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// stagger is the Connection Attempt Delay of RFC 8305, section 5: how long an
// address may be silent before the next one is tried beside it.
const stagger = 250 * time.Millisecond

// exhaustedPause is the first pause before a dial that found this machine
// without a descriptor or port is tried again; it doubles up to a second.
const exhaustedPause = 20 * time.Millisecond

var errConnectTimeout = errors.New("connect timeout")

// dialError is a failed attempt: what each address said, and whose fault it is.
type dialError struct {
	class netio.Class
	errs  []error
}

func (e *dialError) Error() string {
	texts := make([]string, len(e.errs))
	for i, err := range e.errs {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (e *dialError) Unwrap() []error { return e.errs }

func (e *dialError) add(err error) {
	class := netio.Classify(err)
	if len(e.errs) == 0 {
		e.class = class
	}
	// One address that the other side is to blame for is enough to blame it;
	// a lack of our own outweighs an address that we cannot reach anyway.
	if class == netio.Theirs || e.class == netio.Ours {
		e.class = class
	}
	e.errs = append(e.errs, err)
}

// dialAny connects to whichever of addrs answers first, the first one with a
// start of a quarter of a second (RFC 8305). ctx bounds all of it; its cause
// is the error of addresses that had not answered by then. first dials the
// first one.
func dialAny(ctx context.Context, addrs []netip.Addr, port uint16, first dial) (net.Conn, netip.Addr, error) {
	if len(addrs) == 1 {
		conn, err := first(ctx, netip.AddrPortFrom(addrs[0], port))
		if err != nil {
			failed := new(dialError)
			failed.add(err)
			return nil, addrs[0], failed
		}
		return conn, addrs[0], nil
	}
	return dialRace(ctx, addrs, port, first)
}

// dial connects to one address.
type dial func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)

// dialed is what came of one address of a race.
type dialed struct {
	conn net.Conn
	addr netip.Addr
	err  error
}

func dialRace(ctx context.Context, addrs []netip.Addr, port uint16, first dial) (net.Conn, netip.Addr, error) {
	delay := stagger
	if deadline, ok := ctx.Deadline(); ok {
		// Every address has its turn, however short the time and many they are.
		delay = min(delay, time.Until(deadline)/time.Duration(len(addrs)+1))
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan dialed)
	started, ended := 0, 0
	defer func() { // the others end now; a late winner among them is not kept
		cancel()
		for ; ended < started; ended++ {
			if late := <-results; late.conn != nil {
				_ = late.conn.Close()
			}
		}
	}()
	next := time.NewTimer(0)
	defer next.Stop()
	failed := new(dialError)
	for ended < len(addrs) {
		select {
		case <-next.C:
			if started < len(addrs) {
				addr, to := addrs[started], dialOne
				if started == 0 {
					to = first
				}
				started++
				go func() { // ends with its dial, which ends with ctx and is waited for
					conn, err := to(ctx, netip.AddrPortFrom(addr, port))
					results <- dialed{conn, addr, err}
				}()
				next.Reset(delay)
			}
		case r := <-results:
			ended++
			if r.err == nil {
				return r.conn, r.addr, nil
			}
			failed.add(r.err)
			next.Reset(0) // no reason to wait for the next one now
		}
	}
	return nil, addrs[len(addrs)-1], failed
}

// dialOne connects to one address. While this machine lacks descriptors or
// ports it tries again until ctx ends.
func dialOne(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	dialer := net.Dialer{KeepAlive: -1} // the idle timeout does that
	for pause := exhaustedPause; ; pause = min(2*pause, time.Second) {
		conn, err := dialer.DialContext(ctx, "tcp", addr.String())
		switch {
		case err == nil:
			return conn, nil
		case netio.Classify(err) == netio.Exhausted:
		case ctx.Err() != nil:
			return nil, fmt.Errorf("dial tcp %s: %w", addr, context.Cause(ctx))
		default:
			return nil, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		if ctx.Err() != nil { // both, on a busy machine: another dial would seem to fail by its timeout
			return nil, err
		}
	}
}
