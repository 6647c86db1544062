package listen

import (
	"net/netip"
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
	opts.TakeUDP = func(c *Conn) func([][]byte) {
		return func(datagrams [][]byte) {
			for _, d := range datagrams {
				taken <- got{c.Client(), string(d)}
			}
			_ = c.Reply(datagrams)
			if string(datagrams[len(datagrams)-1]) == "end" {
				c.End()
			}
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

// At most maxTakenPerBatch new clients of a batch are taken; the others wait for
// Accept.
func TestTakeUDPIsBounded(t *testing.T) {
	relaytest.NoLeaks(t)
	s, at := NewSockets(), freeAddr(t, "127.0.0.1")
	taken := 0
	opts := quiet()
	opts.TakeUDP = func(c *Conn) func([][]byte) {
		taken++
		return func([][]byte) { c.End() }
	}
	l, err := s.UDP(at, opts)
	relaytest.Check(t, err)
	socket := l.socket
	// Deliver in place of the reading goroutine, which has nothing to read now.
	socket.takenInBatch = 0
	for port := range maxTakenPerBatch + 5 {
		socket.deliver(key{client: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(1000+port))}, []byte("x"))
	}
	if taken != maxTakenPerBatch || len(l.conns) != 5 {
		t.Errorf("%d taken, %d queued", taken, len(l.conns))
	}
	for range 5 {
		accepted[*Conn](t, l).Close()
	}
	relaytest.Check(t, l.Close())
}
