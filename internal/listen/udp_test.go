package listen

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// sizes are at the limits of buffers: those of matchers, of caddy-l4's own
// listeners, and of UDP.
var sizes = []int{0, 1, 2, 512, 1472, 2048, 2049, 8999, 9000, 9001, 16000, 32768, 65507}

// payload returns a datagram whose bytes depend on their position.
func payload(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// wantDatagram reads one datagram and compares it, empty ones too.
func wantDatagram(t *testing.T, conn net.Conn, want []byte) {
	t.Helper()
	relaytest.Check(t, conn.SetReadDeadline(time.Now().Add(relaytest.Limit)))
	buf := make([]byte, 64<<10)
	n, err := conn.Read(buf)
	relaytest.Check(t, err)
	if !bytes.Equal(buf[:n], want) {
		t.Fatalf("a datagram of %d bytes arrived as one of %d", len(want), n)
	}
}

// Datagrams of all sizes arrive whole in both directions, before and after Take.
func TestUDPSizes(t *testing.T) {
	relaytest.NoLeaks(t)
	for _, host := range []string{"127.0.0.1", "::1", ""} {
		s := NewSockets()
		at := freeAddr(t, host)
		l := openUDP(t, s, at)
		dialled := to("::1", at)
		if host == "127.0.0.1" {
			dialled = at.String()
		}
		near := dial(t, "udp", dialled)
		send(t, near, "begin")
		far := accepted[*Conn](t, l)
		wantRead(t, far, "begin")
		both := func(read func(want []byte)) {
			for _, size := range sizes {
				_, err := near.Write(payload(size))
				relaytest.Check(t, err)
				read(payload(size))
				_, err = far.Write(payload(size))
				relaytest.Check(t, err)
				wantDatagram(t, near, payload(size))
			}
		}
		both(func(want []byte) { wantDatagram(t, far, want) })
		taken := make(chan []byte, 1)
		far.Take(0, each(func(datagram []byte) { taken <- bytes.Clone(datagram) }))
		both(func(want []byte) {
			if got := relaytest.Receive(t, "a datagram", taken); !bytes.Equal(got, want) {
				t.Fatalf("a datagram of %d bytes arrived as one of %d", len(want), len(got))
			}
		})
		far.End()
		relaytest.Check(t, l.Close())
		wantNoSockets(t, s)
	}
}

// A client is identified by its own address and the local address that it sent to.
// Replies come from that local address.
func TestUDPAddresses(t *testing.T) {
	relaytest.NoLeaks(t)
	for _, c := range []struct {
		bound string
		hosts []string
	}{
		{"", []string{"127.0.0.1", "127.0.0.2", "::1"}},
		{"0.0.0.0", []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"}},
		{"127.0.0.2", []string{"127.0.0.2"}},
		{"::1", []string{"::1"}},
	} {
		s := NewSockets()
		at := freeAddr(t, c.bound)
		l := openUDP(t, s, at)
		for _, host := range c.hosts {
			near := dial(t, "udp", to(host, at)) // receives from that address only
			send(t, near, "one")
			far := accepted[*Conn](t, l)
			send(t, near, "two")
			wantRead(t, far, "one")
			wantRead(t, far, "two")
			if got, want := far.RemoteAddr().String(), near.LocalAddr().String(); got != want || far.Client().String() != want {
				t.Errorf("%q: the client's address is %s, %s, want %s", c.bound, got, far.Client(), want)
			}
			if got, want := far.LocalAddr().String(), near.RemoteAddr().String(); got != want || far.Local().String() != want {
				t.Errorf("%q: the local address is %s, %s, want %s", c.bound, got, far.Local(), want)
			}
			if far.Client() != netip.MustParseAddrPort(near.LocalAddr().String()) {
				t.Errorf("%q: the client's address %v is not normalised", c.bound, far.Client())
			}
			send(t, far, "answer")
			wantRead(t, near, "answer")
		}
		endAll(s)
		relaytest.Check(t, l.Close())
		wantNoSockets(t, s)
	}
}

// endAll ends all UDP clients, so that sockets without listeners close.
func endAll(s *Sockets) {
	s.mu.Lock()
	var conns []*Conn
	for _, socket := range s.udp {
		socket.mu.Lock()
		for _, c := range socket.clients {
			conns = append(conns, c)
		}
		socket.mu.Unlock()
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.End()
	}
}

// A client socket that sends to two local addresses counts as two clients.
func TestUDPTwoLocalAddresses(t *testing.T) {
	relaytest.NoLeaks(t)
	at := freeAddr(t, "0.0.0.0")
	l := openUDP(t, NewSockets(), at)
	near, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	relaytest.Check(t, err)
	defer near.Close()
	for _, host := range []string{"127.0.0.1", "127.0.0.2"} {
		_, err := near.WriteToUDPAddrPort([]byte(host), netip.MustParseAddrPort(to(host, at)))
		relaytest.Check(t, err)
		far := accepted[*Conn](t, l)
		wantRead(t, far, host)
		send(t, far, "answer")
		relaytest.Check(t, near.SetReadDeadline(time.Now().Add(relaytest.Limit)))
		_, from, err := near.ReadFromUDPAddrPort(make([]byte, 100))
		relaytest.Check(t, err)
		if from.String() != to(host, at) {
			t.Errorf("sent to %s, the answer is from %s", host, from)
		}
	}
}

// A full queue drops datagrams of its own client only.
func TestUDPQueue(t *testing.T) {
	relaytest.NoLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	l := openUDP(t, s, at)
	ann, bob := dial(t, "udp", at.String()), dial(t, "udp", at.String())
	for i := range queueLength + 20 {
		send(t, ann, fmt.Sprint(i))
		if i == 0 {
			send(t, bob, "b")
		}
	}
	relaytest.Eventually(t, "the queue to overflow", func() bool { return s.Dropped() == 20 })
	send(t, bob, "ob")
	annFar, bobFar := accepted[*Conn](t, l), accepted[*Conn](t, l)
	wantRead(t, bobFar, "b")
	wantRead(t, bobFar, "ob")
	for i := range queueLength {
		wantRead(t, annFar, fmt.Sprint(i))
	}
	send(t, ann, "more")
	wantRead(t, annFar, "more")
	if got := s.Dropped(); got != 20 {
		t.Errorf("%d datagrams dropped, want 20", got)
	}
	relaytest.Check(t, annFar.SetReadDeadline(time.Unix(1, 0)))
	if n, err := annFar.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if got := annFar.socket.queuedBytes.Load(); got != 0 {
		t.Errorf("%d bytes counted as unread", got)
	}
}

// Clients that wait to be accepted when a listener closes go to the listener that is
// the latest then, with their queued datagrams. If none is left, they end.
func TestUDPClosePassesClients(t *testing.T) {
	relaytest.NoLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	first, second := openUDP(t, s, at), openUDP(t, s, at)
	near := dial(t, "udp", at.String())
	send(t, near, "one")
	relaytest.Eventually(t, "the client to be queued", func() bool { return len(second.conns) == 1 })
	relaytest.Check(t, second.Close())
	_, err := second.Accept()
	wantClosed(t, err)
	send(t, near, "two")
	far := accepted[*Conn](t, first)
	wantRead(t, far, "one")
	wantRead(t, far, "two")
	relaytest.Check(t, far.Close())

	send(t, near, "three")
	relaytest.Eventually(t, "the client to be queued", func() bool { return len(first.conns) == 1 })
	relaytest.Check(t, first.Close())
	wantNoSockets(t, s)
	other, err := net.ListenPacket("udp", at.String())
	relaytest.Check(t, err)
	relaytest.Check(t, other.Close())
}

// The client's next datagram after Close begins a new Conn.
func TestUDPNewConnAfterClose(t *testing.T) {
	relaytest.NoLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	l := openUDP(t, s, at)
	near := dial(t, "udp", at.String())
	for range 100 {
		send(t, near, "x")
		far := accepted[*Conn](t, l)
		wantRead(t, far, "x")
		relaytest.Check(t, far.Close())
		relaytest.Check(t, far.Close())
		if n, err := far.Read(make([]byte, 10)); err == nil {
			t.Fatalf("read %d bytes after Close", n)
		}
		if far.deliver([]byte("late")) {
			t.Fatal("a datagram was delivered to a client that has ended")
		}
	}
	wantCounts(t, l.socket, 1, 0, 0)
}

func wantCounts(t *testing.T, u *udpSocket, users, clients, untaken int) {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.users != users || len(u.clients) != clients || u.untaken != untaken {
		t.Errorf("%d users, %d clients, %d untaken, want %d, %d, %d", u.users, len(u.clients), u.untaken, users, clients, untaken)
	}
}

// A client that ends while its next datagram begins a new Conn does not remove that
// Conn from the table.
func TestUDPEndDuringDatagram(t *testing.T) {
	relaytest.NoLeaks(t)
	old := fakeConn("a")
	u := old.socket
	old.mu.Lock()
	old.closed = true // the first half of End
	old.mu.Unlock()
	u.deliver(fakeKey(1), []byte("b"))
	u.remove(old, false) // the second half
	wantCounts(t, u, 2, 1, 1)
	l, _ := u.listener()
	next := <-l.conns
	wantRead(t, next, "b")
	next.End()
	wantCounts(t, u, 1, 0, 0)
}
