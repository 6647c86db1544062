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
	"testing/synctest"
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

// The delay before the second address counts from the begin of the first dial, which
// may be earlier than Any.
func TestDelayCountsFromTheFirstDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		addrs := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
		for _, ago := range []time.Duration{0, 100 * time.Millisecond, Stagger, time.Hour} {
			began := time.Now()
			silent := func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			var second time.Duration
			d := Dialer{Since: began.Add(-ago), Around: func(ctx context.Context, addr netip.AddrPort, dial Func) (net.Conn, error) {
				if addr.Addr() == addrs[0] {
					return dial(ctx, addr)
				}
				second = time.Since(began)
				return new(net.TCPConn), nil
			}}
			if _, addr, err := d.Any(t.Context(), addrs, 1, silent); err != nil || addr != addrs[1] {
				t.Errorf("%v, %v", addr, err)
			}
			if want := max(0, Stagger-ago); second != want {
				t.Errorf("first dial %v ago: second after %v, want %v", ago, second, want)
			}
		}
	})
}
