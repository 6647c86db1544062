package dial

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// Stagger is the Connection Attempt Delay of RFC 8305, section 5: how long one
// address may be silent before the next one is dialled in parallel with it.
const Stagger = 250 * time.Millisecond

// Pauses before a dial that found no free descriptor or port is repeated.
const (
	firstPause = 20 * time.Millisecond // doubles with each repetition
	maxPause   = time.Second
)

// Func connects to one address.
type Func func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)

// Dialer connects to backends.
type Dialer struct {
	KeepAlive time.Duration // idle time and interval of TCP keep-alive probes, whole seconds; 0: none
	// MakeRoom frees a descriptor, and reports whether it could. nil: there is no way.
	MakeRoom func() bool
	// Around, if set, is called for each address instead of dial, and calls dial or
	// returns an error.
	Around func(ctx context.Context, addr netip.AddrPort, dial Func) (net.Conn, error)
	// Since is when the caller of Any has begun to dial the first address, whose
	// result its argument first returns. Zero: it has not.
	Since time.Time
}

// Delay returns the time between the dials of n addresses that have a timeout
// together: a [Stagger], or less so that each is dialled, however short the timeout
// and however many they are.
func Delay(timeout time.Duration, n int) time.Duration {
	return min(Stagger, timeout/time.Duration(n+1))
}

// Any connects to the first of addrs that accepts, and returns which one that
// was. The addresses are dialled in order, each a [Stagger] after the one before
// or as soon as that one has failed. first dials the first address, [Dialer.One]
// the others; first may be nil.
//
// ctx bounds the whole call. Its cause is the error of the addresses that had not
// answered by then. A failure is an *[Error], and comes with the last address.
func (d Dialer) Any(ctx context.Context, addrs []netip.Addr, port uint16, first Func) (net.Conn, netip.Addr, error) {
	if first == nil {
		first = d.One
	}
	first = d.around(first)
	if len(addrs) == 1 {
		conn, err := first(ctx, netip.AddrPortFrom(addrs[0], port))
		if err != nil {
			failed := new(Error)
			failed.Add(err)
			return nil, addrs[0], failed
		}
		return conn, addrs[0], nil
	}
	return d.race(ctx, addrs, port, first)
}

// around returns dial with Around around it.
func (d Dialer) around(dial Func) Func {
	if d.Around == nil {
		return dial
	}
	return func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) { return d.Around(ctx, addr, dial) }
}

// result is the outcome of one address of a race.
type result struct {
	conn net.Conn
	addr netip.Addr
	err  error
}

func (d Dialer) race(ctx context.Context, addrs []netip.Addr, port uint16, first Func) (net.Conn, netip.Addr, error) {
	since := d.Since
	if since.IsZero() {
		since = time.Now()
	}
	delay := Stagger
	if deadline, ok := ctx.Deadline(); ok {
		delay = Delay(deadline.Sub(since), len(addrs))
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan result)
	started, ended := 0, 0
	defer func() { // end the other dials, and close connections that came too late
		cancel()
		for ; ended < started; ended++ {
			if late := <-results; late.conn != nil {
				_ = late.conn.Close()
			}
		}
	}()
	next := time.NewTimer(0)
	defer next.Stop()
	failed := new(Error)
	for ended < len(addrs) {
		select {
		case <-next.C:
			if started < len(addrs) {
				addr, dial := addrs[started], d.around(d.One)
				if started == 0 {
					dial = first
				}
				wait := delay
				if started == 0 {
					wait -= time.Since(since)
				}
				started++
				go func() { // ends with its dial, which ends with ctx; its result is awaited
					conn, err := dial(ctx, netip.AddrPortFrom(addr, port))
					results <- result{conn, addr, err}
				}()
				next.Reset(wait)
			}
		case r := <-results:
			ended++
			if r.err == nil {
				return r.conn, r.addr, nil
			}
			failed.Add(r.err)
			next.Reset(0) // dial the next address at once
		}
	}
	return nil, addrs[len(addrs)-1], failed
}

// One connects to one address. While this machine has no free descriptor or port
// it retries until ctx ends. It first makes room, if descriptors are the reason.
func (d Dialer) One(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	dialer := net.Dialer{
		KeepAlive: -1, KeepAliveConfig: netio.KeepAlive(d.KeepAlive), // -1: as configured, or none
		Control: netio.AvoidReserve,
	}
	madeRoom := false // before this try, which follows without a pause
	var exhausted error
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		conn, err := dialer.DialContext(ctx, "tcp", addr.String())
		switch {
		case err == nil:
			return conn, nil
		case netio.Classify(err) == netio.Exhausted:
			if !madeRoom && d.MakeRoom != nil && netio.OutOfDescriptors(err) && d.MakeRoom() {
				madeRoom = true
				continue
			}
			madeRoom, exhausted = false, err
		case exhausted != nil && expired(ctx):
			return nil, exhausted
		case expired(ctx):
			return nil, fmt.Errorf("dial tcp %s: %w", addr, context.Cause(ctx))
		case netio.Classify(err) == netio.Local && netio.SendsSYN(addr):
			return nil, netio.Received(err)
		default:
			return nil, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		if ctx.Err() != nil { // report the exhaustion: one more dial would report the timeout
			return nil, exhausted
		}
	}
}

// expired reports whether ctx has ended. Package net compares the deadline with the
// clock, and may report a timeout before ctx does; expired waits for ctx then.
func expired(ctx context.Context) bool {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		<-ctx.Done()
	}
	return ctx.Err() != nil
}

// Failed returns err as the error of a TCP dial to addr, in the form that
// package net has.
func Failed(addr netip.AddrPort, err error) error {
	return &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: err}
}

// FailedUDP is [Failed] for UDP.
func FailedUDP(addr netip.AddrPort, err error) error {
	return &net.OpError{Op: "dial", Net: "udp", Addr: net.UDPAddrFromAddrPort(addr), Err: err}
}
