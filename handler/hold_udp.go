package handler

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"time"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file makes attempts on UDP backends on behalf of held sessions. Such an
// attempt sends a datagram that one of the sessions keeps, from a socket of its own.
// The session sends it again once it is served, so that the answer reaches its
// client.

// How long a backend must return neither an answer nor an error before the held
// sessions try it, if udp_reply_timeout is off.
const (
	quietOfClosedPort = 20 * time.Millisecond // of one that has reported a closed port until now
	quietOfSilent     = recheckLimit          // of any other
)

// recheckUDP sends a held datagram to a backend and waits for the answer.
func (r *Relay) recheckUDP(ctx context.Context, b *upstream.Backend, limit time.Duration) {
	s := r.service.holds.anySession()
	if s == nil || r.service.drills.of(b) != nil {
		return
	}
	datagram, closedPort, ok := s.heldDatagram()
	if !ok {
		return
	}
	walk := r.service.Pool.Probe(b, upstream.UDP, upstream.Listens)
	a, _ := walk.Next(time.Now())
	o := outcome{attempt: a, port: b.PortFor(s.key.Local.Port())}
	addrs, err := r.resolve(ctx, b, upstream.UDP, recheckQuery(a))
	if err == nil {
		addrs, err = r.withoutOwn(upstream.UDP, addrs, o.port)
	}
	if err != nil {
		return
	}
	quiet := quietOfSilent
	if closedPort {
		quiet = quietOfClosedPort
	}
	for _, o.addr = range addrs {
		answered, err := r.recheckAddr(ctx, o.at(), datagram, limit/time.Duration(len(addrs)), quiet)
		switch {
		case answered:
			o.took = time.Since(a.Began)
			r.recordSuccess(&walk, o, upstream.UDP, heldClients{}, time.Now(), true)
			r.service.holds.wakeUp()
			return
		case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil && r.opts.UDPReplyTimeout == 0:
			r.service.holds.wakeUp() // it may be a service that never answers
			return
		}
	}
}

// recheckAddr sends a datagram to one address, and reports whether it was answered.
// The error is [os.ErrDeadlineExceeded] if neither an answer nor an error came.
func (r *Relay) recheckAddr(ctx context.Context, addr netip.AddrPort, datagram []byte, limit, quiet time.Duration) (answered bool, err error) {
	conn, err := dgram.Dial(addr)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	wait := min(limit, quiet)
	if r.opts.UDPReplyTimeout > 0 {
		wait = limit
	}
	_ = conn.SetDeadline(time.Now().Add(wait))
	defer endWith(ctx, conn)()
	if _, err := conn.Write(datagram); err != nil {
		return false, err
	}
	buf := netio.GetBuffer()
	defer buf.Free()
	_, err = conn.Read(buf[:])
	return err == nil, err
}
