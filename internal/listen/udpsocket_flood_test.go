package listen

import (
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// The clients that wait for Accept and those that were not taken over are bounded.
// Datagrams of further clients are counted as dropped. There is room again once
// clients have ended.
func TestFlood(t *testing.T) {
	relaytest.NoLeaks(t)
	const flood = 100_000
	u, l := fakeSocket()
	for i := range flood {
		u.deliver(fakeKey(i), []byte("a"))
	}
	wantCounts(t, u, 1+backlog, backlog, backlog)
	if got := u.sockets.Dropped(); got != flood-backlog {
		t.Errorf("%d dropped, want %d", got, flood-backlog)
	}
	var accepted []*Conn
	drain := func() {
		for len(l.conns) > 0 {
			accepted = append(accepted, <-l.conns)
		}
	}
	for i := range flood {
		u.deliver(fakeKey(i), []byte("a"))
		drain()
	}
	wantCounts(t, u, 1+maxUntaken, maxUntaken, maxUntaken)
	// A client that was taken over makes room for another.
	accepted[0].Take(0, each(func([]byte) {}))
	wantCounts(t, u, 1+maxUntaken, maxUntaken, maxUntaken-1)
	u.deliver(fakeKey(flood), []byte("a"))
	drain()
	wantCounts(t, u, 2+maxUntaken, maxUntaken+1, maxUntaken)
	for _, c := range accepted {
		c.End()
	}
	wantCounts(t, u, 1, 0, 0)
	if n := u.queuedBytes.Load(); n != 0 {
		t.Errorf("%d bytes counted as unread", n)
	}
}

// The queued bytes are bounded too, and their count returns to 0.
func TestFloodOfBytes(t *testing.T) {
	relaytest.NoLeaks(t)
	u, l := fakeSocket()
	datagram := make([]byte, 60_000)
	const clients = 100
	for range queueLength {
		for i := range clients {
			u.deliver(fakeKey(i), datagram)
		}
	}
	if got := u.queuedBytes.Load(); got > maxQueuedBytes+int64(len(datagram)) || got < maxQueuedBytes {
		t.Errorf("%d bytes queued, want about %d", got, maxQueuedBytes)
	}
	if got, want := u.sockets.Dropped(), uint64(queueLength*clients-maxQueuedBytes/len(datagram)-1); got != want {
		t.Errorf("%d datagrams dropped, want %d", got, want)
	}
	u.deliver(fakeKey(clients), datagram)
	wantCounts(t, u, 1+clients, clients, clients)

	first := <-l.conns
	for range 10 {
		_, err := first.Read(make([]byte, 64<<10))
		relaytest.Check(t, err)
	}
	u.deliver(fakeKey(clients), datagram) // fits again
	wantCounts(t, u, 2+clients, clients+1, clients+1)
	first.End()
	for len(l.conns) > 0 {
		c := <-l.conns
		c.Take(0, each(func([]byte) {}))
		c.End()
	}
	if n := u.queuedBytes.Load(); n != 0 {
		t.Errorf("%d bytes counted as unread", n)
	}
	wantCounts(t, u, 1, 0, 0)
}

// Clients that arrive while a listener closes all reach the other listener.
func TestUDPCloseDuringDelivery(t *testing.T) {
	relaytest.NoLeaks(t)
	for range 300 {
		u, first := fakeSocket()
		second := &UDPListener{socket: u, opts: quiet(), conns: make(chan *Conn, backlog), done: make(chan struct{})}
		relaytest.Check(t, u.listeners.add(second, ""))
		u.users++
		closed := make(chan error, 1)
		go func() { closed <- second.Close() }()
		const clients = 50
		for i := range clients {
			u.deliver(fakeKey(i), []byte("a"))
		}
		relaytest.Check(t, <-closed)
		if got := len(first.conns) + len(second.conns); got != clients || len(second.conns) != 0 {
			t.Fatalf("%d clients of %d are queued, %d of them at the closed listener", got, clients, len(second.conns))
		}
	}
}
