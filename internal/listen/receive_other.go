//go:build !linux

package listen

import (
	"errors"
	"net"
	"net/netip"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// read delivers datagrams to their clients until the socket is closed.
func (u *udpSocket) read() {
	backoff := u.backoff()
	buf := netio.GetBuffer()
	defer buf.Free()
	for {
		n, from, err := u.conn.ReadFromUDPAddrPort(buf[:])
		switch {
		case err == nil:
			backoff.success()
			u.beginBatch(false)
			u.deliver(key{client: netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}, buf[:n])
		case errors.Is(err, net.ErrClosed):
			return
		default:
			backoff.failure(err)
		}
	}
}

// batches is empty: a socket reads into a buffer of its own.
type batches struct{}

// path is empty: the client's address is all that a reply needs.
type path struct{}

func (u *udpSocket) pathTo(key) path { return path{} }
