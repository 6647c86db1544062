package listen

import (
	"testing"
)

// More clients than anybody accepts, then more than may be on their way: both
// bounded and counted, and room again when they have gone.
func TestFlood(t *testing.T) {
	noLeaks(t)
	const flood = 100_000
	u, l := bare()
	for i := range flood {
		u.deliver(made(i), []byte("a"))
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
		u.deliver(made(i), []byte("a"))
		drain()
	}
	wantCounts(t, u, 1+maxUntaken, maxUntaken, maxUntaken)
	// Those there are are served as ever.
	accepted[0].Take(0, each(func([]byte) {}))
	wantCounts(t, u, 1+maxUntaken, maxUntaken, maxUntaken-1)
	u.deliver(made(flood), []byte("a"))
	drain()
	wantCounts(t, u, 2+maxUntaken, maxUntaken+1, maxUntaken)
	for _, c := range accepted {
		c.End()
	}
	wantCounts(t, u, 1, 0, 0)
	if n := u.waiting.Load(); n != 0 {
		t.Errorf("%d bytes are said to wait", n)
	}
}

// The bytes that wait are bounded, too, and come to nothing in the end.
func TestFloodOfBytes(t *testing.T) {
	noLeaks(t)
	u, l := bare()
	datagram := make([]byte, 60_000)
	const clients = 100
	for range queueLength {
		for i := range clients {
			u.deliver(made(i), datagram)
		}
	}
	if got := u.waiting.Load(); got > maxWaiting+int64(len(datagram)) || got < maxWaiting {
		t.Errorf("%d bytes wait, want about %d", got, maxWaiting)
	}
	if got, want := u.sockets.Dropped(), uint64(queueLength*clients-maxWaiting/len(datagram)-1); got != want {
		t.Errorf("%d datagrams dropped, want %d", got, want)
	}
	u.deliver(made(clients), datagram)
	wantCounts(t, u, 1+clients, clients, clients)

	first := <-l.conns
	for range 10 {
		_, err := first.Read(make([]byte, 64<<10))
		check(t, err)
	}
	u.deliver(made(clients), datagram) // there is room again
	wantCounts(t, u, 2+clients, clients+1, clients+1)
	first.End()
	for len(l.conns) > 0 {
		c := <-l.conns
		c.Take(0, each(func([]byte) {}))
		c.End()
	}
	if n := u.waiting.Load(); n != 0 {
		t.Errorf("%d bytes are said to wait", n)
	}
	wantCounts(t, u, 1, 0, 0)
}

// A listener that closes in the middle of it loses nobody for the next one.
func TestCloseWhileOffered(t *testing.T) {
	noLeaks(t)
	for range 300 {
		u, first := bare()
		second := &UDPListener{socket: u, opts: quiet(), conns: make(chan *Conn, backlog), done: make(chan struct{})}
		check(t, u.listeners.add(second, ""))
		u.users++
		closed := make(chan error, 1)
		go func() { closed <- second.Close() }()
		const clients = 50
		for i := range clients {
			u.deliver(made(i), []byte("a"))
		}
		check(t, <-closed)
		if got := len(first.conns) + len(second.conns); got != clients || len(second.conns) != 0 {
			t.Fatalf("%d clients of %d wait, %d with the listener that is closed", got, clients, len(second.conns))
		}
	}
}
