package handler

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/internal/netio"
)

// This file is what a health check asks of a backend over the network.

// probeTCP connects, and exchanges what the check wants to see exchanged.
func (c *HealthCheck) probeTCP(ctx context.Context, addrs []netip.Addr, port uint16) (netip.Addr, error) {
	conn, addr, err := dial.Any(ctx, addrs, port, dial.One)
	if err != nil {
		return addr, err
	}
	defer conn.Close()
	if len(c.Send) > 0 || len(c.Expect) > 0 {
		return addr, c.exchange(ctx, conn, true)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a reset, which leaves no port in TIME_WAIT: there was nothing to lose
	}
	return addr, nil
}

// probeUDP asks one address after the other; each has its share of the time.
func (c *HealthCheck) probeUDP(ctx context.Context, addrs []netip.Addr, port uint16) (netip.Addr, error) {
	deadline, _ := ctx.Deadline()
	failed := new(dial.Error)
	for i, addr := range addrs {
		share := time.Until(deadline) / time.Duration(len(addrs)-i)
		err := c.askUDP(ctx, netip.AddrPortFrom(addr, port), share)
		if err == nil {
			return addr, nil
		}
		failed.Add(err)
	}
	return addrs[len(addrs)-1], failed
}

func (c *HealthCheck) askUDP(ctx context.Context, addr netip.AddrPort, timeout time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errHealthTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "udp", addr.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	return c.exchange(ctx, conn, false)
}

// exchange sends what is to be sent and reads until what is expected has come:
// in a stream's first 64 KiB, or else in one of the datagrams.
func (c *HealthCheck) exchange(ctx context.Context, conn net.Conn, stream bool) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // ends the waiting below
	defer stop()
	if len(c.Send) > 0 {
		if _, err := conn.Write(c.Send); err != nil {
			return unanswered(ctx, conn, 0, err)
		}
	}
	buf := netio.GetBuffer()
	defer buf.Free()
	kept := 0
	for kept < len(buf) {
		n, err := conn.Read(buf[kept:])
		if err != nil {
			return unanswered(ctx, conn, kept, err)
		}
		from := max(0, kept-len(c.Expect)) // what is expected may begin in what came before
		if bytes.Contains(buf[from:kept+n], c.Expect) {
			return nil
		}
		if stream {
			kept += n
		}
	}
	return fmt.Errorf("expected answer of %s: not in its first %d bytes", conn.RemoteAddr(), kept)
}

// unanswered says that the exchange ended before the expected answer had come.
func unanswered(ctx context.Context, conn net.Conn, kept int, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("expected answer of %s: %w, after %d bytes", conn.RemoteAddr(), err, kept)
}
