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

// feed brings the datagrams of one caddy-l4 association (`udp/` listeners) to
// their session, and answers back. The session is the relay's own and outlives
// the association; the association is read as long as the session lives, and
// to the last datagram, because caddy-l4's listener stands still for all
// clients while one association's queue of five is full.
type feed struct {
	conn net.Conn // the association
	ctx  context.Context
	end  context.CancelFunc
}

// front is a client of relay+udp/ that its session has taken over: its
// datagrams come straight from the socket, and no goroutine waits for them.
type front struct {
	*listen.Conn
	relay   *handler.Relay
	session handler.Session // the latest
}

// deliver is called by one goroutine at a time.
func (f *front) deliver(datagrams [][]byte) {
	if !f.session.Deliver(datagrams, f) {
		f.session = f.relay.Deliver(handler.Key{Client: f.Client(), Local: f.Local()}, datagrams, f)
	}
}

// Release implements handler.Replier.
func (f *front) Release() { f.End() }

// takeDatagrams gives the relay a client of relay+udp/. What matchers have
// looked at is delivered again, as the datagrams that it was.
func takeDatagrams(relay *handler.Relay, cx *layer4.Connection, conn *listen.Conn) {
	f := &front{Conn: conn, relay: relay}
	conn.Take(len(cx.MatchingBytes()), f.deliver)
}

// longPast is a read deadline that makes an association's Read answer from
// what it has in hand, without waiting.
var longPast = time.Unix(1, 0)

// Reply implements handler.Replier. It works also after the association has ended.
func (f *feed) Reply(datagrams [][]byte) error {
	var last error
	for _, datagram := range datagrams {
		if _, err := f.conn.Write(datagram); err != nil {
			last = err
		}
	}
	return last
}

// Release implements handler.Replier.
func (f *feed) Release() { f.end() }

// serveDatagrams reads an association to its end.
func serveDatagrams(relay *handler.Relay, cx *layer4.Connection) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	f := &feed{conn: cx.Conn, ctx: ctx, end: cancel}
	key := handler.Key{Client: addrPort(cx.RemoteAddr()), Local: addrPort(cx.LocalAddr())}
	one := make([][]byte, 1)
	deliver := func(datagram []byte) {
		one[0] = datagram
		relay.Deliver(key, one, f)
	}

	_ = f.conn.SetReadDeadline(longPast)
	f.deliverEarly(cx, deliver)
	for {
		err := cx.WaitForMore(ctx)
		switch {
		case err == nil:
			if !f.read(deliver) {
				return // the listener has ended the association
			}
		case ctx.Err() == nil: // not an association of caddy-l4's: something lies over it
			f.readPlainly(deliver)
			return
		default: // the session has ended
			go f.drain(deliver)
			return
		}
	}
}

// deliverEarly delivers what matchers have read already.
func (f *feed) deliverEarly(cx *layer4.Connection, deliver func([]byte)) {
	buf := netio.GetBuffer()
	defer buf.Free()
	for len(cx.MatchingBytes()) > 0 {
		n, _ := cx.Read(buf[:])
		if n == 0 {
			// A datagram longer than matchers read at once has lost its mark:
			// its beginning lies there, the rest in the association's hand.
			n = copy(buf[:], cx.MatchingBytes())
			rest, _ := f.conn.Read(buf[n:])
			deliver(buf[:n+rest])
			return
		}
		deliver(buf[:n])
	}
}

// read delivers the datagram that WaitForMore took in hand. It says false if
// there was none, which is how an association shows that it has ended.
func (f *feed) read(deliver func([]byte)) bool {
	buf := netio.GetBuffer()
	defer buf.Free()
	n, err := f.conn.Read(buf[:])
	if err != nil && !errors.Is(err, io.EOF) { // EOF is how an empty datagram reads
		return !errors.Is(err, os.ErrDeadlineExceeded)
	}
	deliver(buf[:n])
	return true
}

// readPlainly reads a connection that is not caddy-l4's own association.
func (f *feed) readPlainly(deliver func([]byte)) {
	_ = f.conn.SetReadDeadline(time.Time{})
	stop := context.AfterFunc(f.ctx, func() { _ = f.conn.SetReadDeadline(longPast) })
	defer stop()
	buf := netio.GetBuffer()
	defer buf.Free()
	for {
		n, err := f.conn.Read(buf[:])
		if err != nil {
			return
		}
		deliver(buf[:n])
	}
}

// drain reads on after the handler has returned, until the listener has taken
// notice and closes the queue: otherwise a burst at this very moment would
// fill the queue, and the listener would stand still for ever. It ends with
// the queue, and is not begun where the listener is gone.
func (f *feed) drain(deliver func([]byte)) {
	if f.conn.SetWriteDeadline(time.Time{}) != nil {
		return // falls through to the listener's socket: closed, nobody will close the queue
	}
	_ = f.conn.SetReadDeadline(time.Now().Add(time.Hour)) // before the association's own idle timeout nothing else ends a Read
	buf := netio.GetBuffer()
	defer buf.Free()
	for {
		n, err := f.conn.Read(buf[:])
		if err != nil {
			return
		}
		deliver(buf[:n])
	}
}

// addrPort is addr in the form that sessions are told apart by.
func addrPort(addr net.Addr) netip.AddrPort {
	if udp, ok := addr.(*net.UDPAddr); ok {
		ap := udp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	ap, _ := netip.ParseAddrPort(addr.String())
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
