package handler

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file is the network part of a health check.

// ProbedPort returns the port that is probed of a backend with that port.
func (c *HealthCheck) ProbedPort(backend uint16) uint16 { return cmp.Or(c.Port, backend) }

// overUDP reports whether network n is probed over UDP. An HTTP request decides
// about UDP over TCP.
func (c *HealthCheck) overUDP(n upstream.Network) bool { return n == upstream.UDP && c.HTTP == nil }

// Probe probes one address, with the probed port, on network n. Unlike
// [Relay.CheckHealth] it changes neither the queue nor the journal. If ctx ends
// first, the error is the cause of its end.
func (c *HealthCheck) Probe(ctx context.Context, n upstream.Network, addr netip.AddrPort) error {
	if c.overUDP(n) {
		return c.exchangeUDP(ctx, addr)
	}
	_, err := c.probeTCP(ctx, []netip.Addr{addr.Addr()}, addr.Port())
	return err
}

// probeTCP connects to the first address that answers and makes the exchange
// there. It returns the address that was tried last.
func (c *HealthCheck) probeTCP(ctx context.Context, addrs []netip.Addr, port uint16) (netip.Addr, error) {
	conn, addr, err := dial.Dialer{}.Any(ctx, addrs, port, nil)
	if err != nil {
		return addr, err
	}
	defer conn.Close()
	header := c.PROXY.checkHeader()
	switch {
	case c.HTTP != nil:
		err = c.HTTP.exchange(ctx, conn, header, c.Expect)
	case c.exchanges():
		err = c.exchange(ctx, conn, slices.Concat(header, c.stream()), true)
	case header != nil:
		_, err = conn.Write(header) // does not block: the send buffer is empty
	default:
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // close with a reset: no data is lost, and no port stays in TIME_WAIT
		}
	}
	return addr, err
}

// stream returns what is sent over TCP.
func (c *HealthCheck) stream() []byte {
	if c.Framed {
		return slices.Concat(binary.BigEndian.AppendUint16(nil, uint16(len(c.Send))), c.Send)
	}
	return c.Send
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
	return c.exchange(ctx, conn, slices.Concat(c.PROXY.checkDatagramHeader(), c.Send), false)
}

// exchange writes send and reads until the answer contains one of Expect: within
// the first 64 KiB of a stream, or else within one datagram.
func (c *HealthCheck) exchange(ctx context.Context, conn net.Conn, send []byte, stream bool) error {
	defer endWith(ctx, conn)()
	if len(send) > 0 {
		if _, err := conn.Write(send); err != nil {
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
		if containsOne(buf[:kept+n], c.Expect, kept) {
			return nil
		}
		if stream {
			kept += n
		}
	}
	return fmt.Errorf("expected answer from %s: not in its first %d bytes", conn.RemoteAddr(), kept)
}

// endWith ends the calls on conn when ctx ends. The caller must call stop.
func endWith(ctx context.Context, conn net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
}

// containsOne reports whether an answer contains one of the texts. There may be
// none. Only the end of the first known bytes may be part of one.
func containsOne(answer []byte, texts [][]byte, known int) bool {
	return len(texts) == 0 || slices.ContainsFunc(texts, func(text []byte) bool {
		return bytes.Contains(answer[max(0, known-len(text)):], text)
	})
}

// exchangeFailed returns the error of an exchange that ended before the expected
// answer, after received bytes of other answers.
func exchangeFailed(ctx context.Context, conn net.Conn, received int, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("expected answer from %s: %w, after %d bytes", conn.RemoteAddr(), err, received)
}
