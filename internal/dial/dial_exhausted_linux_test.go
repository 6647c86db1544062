package dial

import (
	"context"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A dial without a free descriptor makes room and succeeds, and its descriptor is
// not reserved. If there is no room, the dial fails with the reason.
func TestOneMakesRoom(t *testing.T) {
	if !relaytest.InChild(t) {
		return
	}
	relaytest.LimitDescriptors(t, 128) // first of all, because the reserve depends on it
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	relaytest.Check(t, err)
	defer listener.Close()
	at := netip.MustParseAddrPort(listener.Addr().String())
	first, err := Dialer{}.One(t.Context(), at) // opens what a first dial needs
	relaytest.Check(t, err)
	defer first.Close()
	var held []*os.File
	for netio.HasDescriptor() {
		file, err := os.Open(os.DevNull)
		relaytest.Check(t, err)
		held = append(held, file)
	}

	calls := 0
	full := Dialer{MakeRoom: func() bool { calls++; return false }}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := full.One(ctx, at); !netio.OutOfDescriptors(err) {
		t.Errorf("without room: %v", err)
	}
	if calls == 0 {
		t.Error("the dial did not try to make room")
	}

	calls = 0
	conn, err := Dialer{MakeRoom: func() bool {
		calls++
		return held[0].Close() == nil
	}}.One(t.Context(), at)
	relaytest.Check(t, err)
	defer conn.Close()
	if calls != 1 || netio.InReserve(conn.(*net.TCPConn)) {
		t.Errorf("made room %d times", calls)
	}
	for _, file := range held[1:] {
		relaytest.Check(t, file.Close())
	}
}
