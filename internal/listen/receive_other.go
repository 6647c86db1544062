//go:build !linux

package listen

import (
	"errors"
	"net"
	"net/netip"
	"os"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// detached is empty: each socket has a goroutine.
type detached struct{}

func (*detached) is() bool                       { return false }
func (*detached) control(func(fd uintptr)) error { return nil }
func (*detached) suspend()                       {}
func (*detached) stopped() bool                  { return true }
func (*detached) close()                         {}
func (*udpSocket) detach()                       {}
func (*udpSocket) watch()                        {}

// read delivers datagrams to their clients until the socket is closed or suspended.
func (u *udpSocket) read() {
	backoff := u.backoff()
	buf := netio.GetBuffer()
	defer buf.Free()
	for {
		n, from, err := u.conn.ReadFromUDPAddrPort(buf[:])
		switch {
		case err == nil:
			backoff.success()
			u.delivering.Lock()
			u.beginBatch(false)
			u.deliver(key{client: netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}, buf[:n])
			u.delivering.Unlock()
		case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
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
