package handler

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file is the network part of a health check.

// Probe probes one address of a backend on network n. Unlike [Relay.CheckHealth]
// it changes neither the queue nor the journal. If ctx ends first, the error is
// the cause of its end.
func (c *HealthCheck) Probe(ctx context.Context, n upstream.Network, addr netip.AddrPort) error {
	if n == upstream.UDP {
		return c.exchangeUDP(ctx, addr)
	}
	_, err := c.probeTCP(ctx, []netip.Addr{addr.Addr()}, addr.Port())
	return err
}

// probeTCP connects to the first address that answers, and exchanges Send and
// Expect there. It returns the address that was tried last.
func (c *HealthCheck) probeTCP(ctx context.Context, addrs []netip.Addr, port uint16) (netip.Addr, error) {
	conn, addr, err := dial.Dialer{}.Any(ctx, addrs, port, nil)
	if err != nil {
		return addr, err
	}
	defer conn.Close()
	if len(c.Send) > 0 || len(c.Expect) > 0 {
		return addr, c.exchange(ctx, conn, true)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // close with a reset: no data is lost, and no port stays in TIME_WAIT
	}
	return addr, nil
}

// probeUDP tries the addresses one after the other, each for an equal share of
// the time. It returns the address that was tried last.
func (c *HealthCheck) probeUDP(ctx context.Context, addrs []netip.Addr, port uint16) (netip.Addr, error) {
	deadline, _ := ctx.Deadline()
	failed := new(dial.Error)
	for i, addr := range addrs {
		share := time.Until(deadline) / time.Duration(len(addrs)-i)
		ctx, cancel := context.WithTimeoutCause(ctx, share, errHealthTimeout)
		err := c.exchangeUDP(ctx, netip.AddrPortFrom(addr, port))
		cancel()
		if err == nil {
			return addr, nil
		}
		failed.Add(err)
	}
	return addrs[len(addrs)-1], failed
}

// exchangeUDP makes the exchange with one address. ICMP errors of other hosts do
// not end it.
func (c *HealthCheck) exchangeUDP(ctx context.Context, addr netip.AddrPort) error {
	conn, err := dgram.Dial(addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	return c.exchange(ctx, conn, false)
}

// exchange writes Send and reads until the answer contains Expect: within the
// first 64 KiB of a stream, or else within one datagram.
func (c *HealthCheck) exchange(ctx context.Context, conn net.Conn, stream bool) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // ends the calls below
	defer stop()
	if len(c.Send) > 0 {
		if _, err := conn.Write(c.Send); err != nil {
			return exchangeFailed(ctx, conn, 0, err)
		}
	}
	buf := netio.GetBuffer()
	defer buf.Free()
	kept := 0
	for kept < len(buf) {
		n, err := conn.Read(buf[kept:])
		if err != nil {
			return exchangeFailed(ctx, conn, kept, err)
		}
		from := max(0, kept-len(c.Expect)) // Expect may begin in the previous read
		if bytes.Contains(buf[from:kept+n], c.Expect) {
			return nil
		}
		if stream {
			kept += n
		}
	}
	return fmt.Errorf("expected answer from %s: not in its first %d bytes", conn.RemoteAddr(), kept)
}

// exchangeFailed returns the error of an exchange that ended before the expected
// answer, after received bytes of other answers.
func exchangeFailed(ctx context.Context, conn net.Conn, received int, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("expected answer from %s: %w, after %d bytes", conn.RemoteAddr(), err, received)
}
