package listen

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// TakeUDP receives the clients instead of Accept, and its sink their datagrams. A
// client that has ended begins again with its next datagram.
func TestTakeUDP(t *testing.T) {
	relaytest.NoLeaks(t)
	s, at := NewSockets(), freeAddr(t, "127.0.0.1")
	type got struct {
		client netip.AddrPort
		text   string
	}
	taken := make(chan got, 1000)
	opts := quiet()
	opts.TakeUDP = func(c *Conn) Sink {
		return func(datagrams [][]byte) bool {
			for _, d := range datagrams {
				taken <- got{c.Client(), string(d)}
			}
			_ = c.Reply(datagrams)
			if string(datagrams[len(datagrams)-1]) == "end" {
				c.End()
			}
			return true
		}
	}
	l, err := s.UDP(at, opts)
	relaytest.Check(t, err)
	peer := dial(t, "udp", at.String())
	exchange := func(text string) {
		t.Helper()
		_, err := peer.Write([]byte(text))
		relaytest.Check(t, err)
		if g := relaytest.Receive(t, "a datagram", taken); g.text != text || g.client.String() != peer.LocalAddr().String() {
			t.Errorf("took %q from %v", g.text, g.client)
		}
		buf := make([]byte, 10)
		relaytest.Check(t, peer.SetReadDeadline(time.Now().Add(relaytest.Limit)))
		if n, err := peer.Read(buf); err != nil || string(buf[:n]) != text {
			t.Errorf("the client got %q, %v", buf[:n], err)
		}
	}
	exchange("one")
	exchange("two")
	exchange("end")
	exchange("again") // with a new Conn
	exchange("end")
	relaytest.Check(t, l.Close())
}

// A sink may decline datagrams: its relay was cleaned up while they were on their
// way. They begin a new client at the next listener, whether the sink was new or
// not.
func TestTakeUDPDeclines(t *testing.T) {
	relaytest.NoLeaks(t)
	s, at := NewSockets(), freeAddr(t, "127.0.0.1")
	var retired atomic.Bool
	arrived, proceed := make(chan string), make(chan struct{})
	opts := quiet()
	opts.TakeUDP = func(c *Conn) Sink {
		return func(datagrams [][]byte) bool {
			arrived <- string(datagrams[0])
			<-proceed
			if retired.Load() {
				c.End()
				return false
			}
			return true
		}
	}
	old, err := s.UDP(at, opts)
	relaytest.Check(t, err)
	known, fresh := dial(t, "udp", at.String()), dial(t, "udp", at.String())
	send(t, known, "first")
	relaytest.Receive(t, "a datagram", arrived)
	proceed <- struct{}{}

	taken := make(chan string, 10)
	opts = quiet()
	opts.TakeUDP = func(c *Conn) Sink {
		return func(datagrams [][]byte) bool {
			for _, d := range datagrams {
				taken <- string(d)
			}
			c.End()
			return true
		}
	}
	send(t, fresh, "of a new client")
	relaytest.Receive(t, "a datagram", arrived) // its listener was found before the reload
	retired.Store(true)
	current, err := s.UDP(at, opts)
	relaytest.Check(t, err)
	relaytest.Check(t, old.Close())
	proceed <- struct{}{}
	if got := relaytest.Receive(t, "the datagram", taken); got != "of a new client" {
		t.Errorf("got %q", got)
	}
	send(t, known, "second")
	relaytest.Receive(t, "a datagram", arrived)
	proceed <- struct{}{}
	if got := relaytest.Receive(t, "the datagram", taken); got != "second" {
		t.Errorf("got %q", got)
	}
	relaytest.Check(t, current.Close())
}

// New clients are taken one after the other while the socket's queue becomes empty in
// between. Otherwise some of each batch are taken, and the others wait for Accept.
func TestTakeUDPIsBounded(t *testing.T) {
	relaytest.NoLeaks(t)
	s, at := NewSockets(), freeAddr(t, "127.0.0.1")
	taken := 0
	opts := quiet()
	opts.TakeUDP = func(c *Conn) Sink {
		taken++
		return func([][]byte) bool { c.End(); return true }
	}
	l, err := s.UDP(at, opts)
	relaytest.Check(t, err)
	socket := l.socket
	// Deliver in place of the reading goroutine, which has nothing to read now.
	port, total := uint16(1000), 0
	for _, batch := range []struct {
		full          bool
		clients, want int
	}{
		{false, 64, 64},
		{true, maxTaken - 64, maxTaken - 64},
		{true, 64, minTaken},
		{true, minTaken + 5, minTaken},
		{true, 1, 1},
		{true, minTaken + 1, minTaken},
		{false, 64, 64},
		{false, maxTaken + 3, maxTaken},
	} {
		socket.beginBatch(batch.full)
		before := taken
		for range batch.clients {
			socket.deliver(key{client: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)}, []byte("x"))
			port++
		}
		total += batch.clients
		if got := taken - before; got != batch.want {
			t.Errorf("%d taken of %+v", got, batch)
		}
	}
	if len(l.conns) != total-taken {
		t.Errorf("%d queued, want %d", len(l.conns), total-taken)
	}
	for range total - taken {
		accepted[*Conn](t, l).Close()
	}
	relaytest.Check(t, l.Close())
}
