package module

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/mholt/caddy-l4/layer4"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/listen"
	"github.com/async-relay/caddy-relay/internal/netio"
)

// association is a UDP client of a `udp/` listener of caddy-l4. It passes the
// client's datagrams to the session and the answers back.
//
// The session belongs to the relay and outlives the association. The association
// must be read until its channel is closed: caddy-l4's listener blocks for all
// clients while the channel of one association, which holds five datagrams, is
// full.
type association struct {
	conn net.Conn
	ctx  context.Context // ends with the session
	end  context.CancelFunc
}

// directClient is a UDP client of a `relay+udp/` listener whose datagrams go from
// the socket to the session without a goroutine of its own.
type directClient struct {
	*listen.Conn
	relay   *Relay
	session handler.Session // the latest
}

// deliver passes datagrams to the session of the client, or to a new one of relay.
// It returns false if relay was retired and there is no session. It is called by
// one goroutine at a time.
func (c *directClient) deliver(relay *handler.Relay, datagrams [][]byte) (taken bool) {
	if !c.session.Deliver(datagrams, c) {
		c.session, taken = relay.Deliver(handler.Key{Client: c.Client(), Local: c.Local()}, datagrams, c)
		return taken
	}
	return true
}

// deliverOrEnd is the [listen.Sink] of a client that bypasses layer4.
func (c *directClient) deliverOrEnd(datagrams [][]byte) (taken bool) {
	if !c.deliver(c.relay.relay, datagrams) {
		c.End()
		return false
	}
	return true
}

// deliverAlways is the [listen.Sink] of a client that came through the routes,
// which are not walked again after Cleanup.
func (c *directClient) deliverAlways(datagrams [][]byte) (taken bool) {
	_ = c.relay.serve(func(relay *handler.Relay) bool { return c.deliver(relay, datagrams) })
	return true
}

// Release implements handler.Replier.
func (c *directClient) Release() { c.End() }

// takeDatagrams passes a client of relay+udp/ to the relay. The datagrams that
// matchers have read are delivered too, with their original boundaries.
func takeDatagrams(relay *Relay, cx *layer4.Connection, conn *listen.Conn) {
	relay.adopt()
	c := &directClient{Conn: conn, relay: relay}
	conn.Take(len(cx.MatchingBytes()), c.deliverAlways)
}

// pastDeadline is a read deadline that keeps Read from blocking: an association
// then returns the rest of the datagram that it has received, or a timeout.
var pastDeadline = time.Unix(1, 0)

// Reply implements handler.Replier. It works after the association has ended, too.
func (a *association) Reply(datagrams [][]byte) error {
	var last error
	for _, datagram := range datagrams {
		if _, err := a.conn.Write(datagram); err != nil {
			last = err
		}
	}
	return last
}

// Release implements handler.Replier.
func (a *association) Release() { a.end() }

// SocketAddrs implements handler.Wrapped: a PROXY protocol header may have set other
// addresses.
func (a *association) SocketAddrs() (client, local netip.AddrPort) {
	conn := a.conn
	for under := conn; under != nil; under = unwrap(under) {
		conn = under
	}
	return addrPort(conn.RemoteAddr()), addrPort(conn.LocalAddr())
}

// serveDatagrams delivers the datagrams of an association until the association
// or its session has ended.
func serveDatagrams(relay *Relay, cx *layer4.Connection) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	a := &association{conn: cx.Conn, ctx: ctx, end: cancel}
	key := handler.Key{Client: addrPort(cx.RemoteAddr()), Local: addrPort(cx.LocalAddr())}
	one := make([][]byte, 1)
	deliver := func(datagram []byte) {
		one[0] = datagram
		_ = relay.serve(func(relay *handler.Relay) bool {
			_, taken := relay.Deliver(key, one, a)
			return taken
		})
	}

	_ = a.conn.SetReadDeadline(pastDeadline)
	a.deliverEarly(cx, deliver)
	for {
		err := cx.WaitForMore(ctx)
		switch {
		case err == nil:
			if !a.read(deliver) {
				return // the listener has ended the association
			}
		case ctx.Err() == nil: // not an association of caddy-l4, but something that wraps one
			a.readWrapped(deliver)
			return
		default: // the session has ended
			go a.readUntilClosed(deliver) // returns when the listener closes the channel
			return
		}
	}
}

// deliverEarly delivers the datagrams that matchers have read.
func (a *association) deliverEarly(cx *layer4.Connection, deliver func([]byte)) {
	buf := netio.GetBuffer()
	defer buf.Free()
	for len(cx.MatchingBytes()) > 0 {
		n, _ := cx.Read(buf[:])
		if n == 0 {
			// Matchers have read only the beginning of a long datagram. The
			// association has the rest.
			n = copy(buf[:], cx.MatchingBytes())
			rest, _ := a.conn.Read(buf[n:])
			deliver(buf[:n+rest])
			return
		}
		deliver(buf[:n])
	}
}

// read delivers the datagram that WaitForMore has received. It reports false if
// there was none, which means that the association has ended.
func (a *association) read(deliver func([]byte)) bool {
	buf := netio.GetBuffer()
	defer buf.Free()
	n, err := a.conn.Read(buf[:])
	if err != nil && !errors.Is(err, io.EOF) { // an empty datagram reads as EOF
		return !errors.Is(err, os.ErrDeadlineExceeded)
	}
	deliver(buf[:n])
	return true
}

// readWrapped delivers the datagrams of a connection that wraps an association.
func (a *association) readWrapped(deliver func([]byte)) {
	_ = a.conn.SetReadDeadline(time.Time{})
	stop := context.AfterFunc(a.ctx, func() { _ = a.conn.SetReadDeadline(pastDeadline) })
	defer stop()
	buf := netio.GetBuffer()
	defer buf.Free()
	for {
		n, err := a.conn.Read(buf[:])
		if err != nil {
			return
		}
		deliver(buf[:n])
	}
}

// readUntilClosed delivers the remaining datagrams after the handler has
// returned, until the listener closes the channel. Without it, a burst at that
// moment would fill the channel and block the listener for ever. It returns at
// once if the listener is closed.
func (a *association) readUntilClosed(deliver func([]byte)) {
	if a.conn.SetWriteDeadline(time.Time{}) != nil {
		return // the listener's socket is closed, so it will not close the channel
	}
	_ = a.conn.SetReadDeadline(time.Now().Add(time.Hour)) // longer than the association's idle timeout, which ends Read
	buf := netio.GetBuffer()
	defer buf.Free()
	for {
		n, err := a.conn.Read(buf[:])
		if err != nil {
			return
		}
		deliver(buf[:n])
	}
}

// addrPort returns addr in the form that identifies sessions.
func addrPort(addr net.Addr) netip.AddrPort {
	if udp, ok := addr.(*net.UDPAddr); ok {
		ap := udp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	ap, _ := netip.ParseAddrPort(addr.String())
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
