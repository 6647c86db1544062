//go:build !linux

package listen

import (
	"errors"
	"net"
	"net/netip"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// read brings datagrams to their clients until the socket is closed.
func (u *udpSocket) read() {
	trouble := u.trouble()
	buf := netio.GetBuffer()
	defer buf.Free()
	for {
		n, from, err := u.conn.ReadFromUDPAddrPort(buf[:])
		switch {
		case err == nil:
			trouble.over()
			u.fresh = 0
			u.deliver(key{client: netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}, buf[:n])
		case errors.Is(err, net.ErrClosed):
			return
		default:
			trouble.wait(err)
		}
	}
}

// path: the client's address says all.
type path struct{}

func (u *udpSocket) pathTo(key) path { return path{} }
