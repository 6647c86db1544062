package dial

import (
	"context"
	"io"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Connections that are established after the race was won are closed. To get
// some, many addresses are dialled within an instant, again and again.
func TestLateConnectionsAreClosed(t *testing.T) {
	relaytest.NoLeaks(t)
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // finalizers would close what was forgotten
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	relaytest.Check(t, err)
	defer listener.Close()
	var accepted, open atomic.Int64
	go func() { // ends when the listener is closed
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			open.Add(1)
			go func() { // ends with the connection
				_, _ = io.Copy(io.Discard, conn)
				conn.Close()
				open.Add(-1)
			}()
		}
	}()
	port := netip.MustParseAddrPort(listener.Addr().String()).Port()
	addrs := slices.Repeat([]netip.Addr{netip.MustParseAddr("127.0.0.1")}, 50)
	won := int64(0)
	relaytest.Eventually(t, "races with several established connections", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
		defer cancel()
		conn, _, err := Dialer{}.Any(ctx, addrs, port, nil)
		if err == nil {
			won++
			relaytest.Check(t, conn.Close())
		}
		return accepted.Load() > won+10
	})
	relaytest.Eventually(t, "the end of all connections", func() bool { return open.Load() == 0 })
}
