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
)

// sizes are those at the edges of buffers: of matchers, of caddy-l4's own
// listeners, of UDP.
var sizes = []int{0, 1, 2, 512, 1472, 2048, 2049, 8999, 9000, 9001, 16000, 32768, 65507}

// payload is a datagram of that size whose every part is recognisable.
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
	check(t, conn.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 64<<10)
	n, err := conn.Read(buf)
	check(t, err)
	if !bytes.Equal(buf[:n], want) {
		t.Fatalf("a datagram of %d bytes came as one of %d", len(want), n)
	}
}

func TestUDPSizes(t *testing.T) {
	noLeaks(t)
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
				check(t, err)
				read(payload(size))
				_, err = far.Write(payload(size))
				check(t, err)
				wantDatagram(t, near, payload(size))
			}
		}
		both(func(want []byte) { wantDatagram(t, far, want) })
		taken := make(chan []byte, 1)
		far.Take(0, each(func(datagram []byte) { taken <- bytes.Clone(datagram) }))
		both(func(want []byte) {
			if got := receive(t, "a datagram", taken); !bytes.Equal(got, want) {
				t.Fatalf("a datagram of %d bytes came as one of %d", len(want), len(got))
			}
		})
		far.End()
		check(t, l.Close())
		wantGone(t, s)
	}
}

// A client is who sent and to which address of ours, and hears from that one.
func TestUDPEnds(t *testing.T) {
	noLeaks(t)
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
			near := dial(t, "udp", to(host, at)) // takes answers from there alone
			send(t, near, "one")
			far := accepted[*Conn](t, l)
			send(t, near, "two")
			wantRead(t, far, "one")
			wantRead(t, far, "two")
			if got, want := far.RemoteAddr().String(), near.LocalAddr().String(); got != want || far.Client().String() != want {
				t.Errorf("%q: the client is %s, %s, want %s", c.bound, got, far.Client(), want)
			}
			if got, want := far.LocalAddr().String(), near.RemoteAddr().String(); got != want || far.Local().String() != want {
				t.Errorf("%q: we are %s, %s, want %s", c.bound, got, far.Local(), want)
			}
			if far.Client() != netip.MustParseAddrPort(near.LocalAddr().String()) {
				t.Errorf("%q: the key %v is not in its plain form", c.bound, far.Client())
			}
			send(t, far, "answer")
			wantRead(t, near, "answer")
		}
		endAll(s)
		check(t, l.Close())
		wantGone(t, s)
	}
}

// endAll ends all UDP clients, so that their sockets do not linger.
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

// One socket of a client's that talks to two addresses of ours is two clients.
func TestUDPLocalAddressTellsApart(t *testing.T) {
	noLeaks(t)
	at := freeAddr(t, "0.0.0.0")
	l := openUDP(t, NewSockets(), at)
	near, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	check(t, err)
	defer near.Close()
	for _, host := range []string{"127.0.0.1", "127.0.0.2"} {
		_, err := near.WriteToUDPAddrPort([]byte(host), netip.MustParseAddrPort(to(host, at)))
		check(t, err)
		far := accepted[*Conn](t, l)
		wantRead(t, far, host)
		send(t, far, "answer")
		check(t, near.SetReadDeadline(time.Now().Add(patience)))
		_, from, err := near.ReadFromUDPAddrPort(make([]byte, 100))
		check(t, err)
		if from.String() != to(host, at) {
			t.Errorf("asked %s, the answer is from %s", host, from)
		}
	}
}

// A client's queue drops what is too much of its own, and nobody else's.
func TestUDPQueue(t *testing.T) {
	noLeaks(t)
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
	eventually(t, "the queue to overflow", func() bool { return s.Dropped() == 20 })
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
	check(t, annFar.SetReadDeadline(time.Unix(1, 0)))
	if n, err := annFar.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if got := annFar.socket.waiting.Load(); got != 0 {
		t.Errorf("%d bytes are said to wait", got)
	}
}

// Who waits to be accepted when a listener closes goes to the one before, with
// the datagrams that wait; the last listener ends its own.
func TestUDPCloseHandsOn(t *testing.T) {
	noLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	first, second := openUDP(t, s, at), openUDP(t, s, at)
	near := dial(t, "udp", at.String())
	send(t, near, "one")
	eventually(t, "the client to wait", func() bool { return len(second.conns) == 1 })
	check(t, second.Close())
	_, err := second.Accept()
	wantClosed(t, err)
	send(t, near, "two")
	far := accepted[*Conn](t, first)
	wantRead(t, far, "one")
	wantRead(t, far, "two")
	check(t, far.Close())

	send(t, near, "three")
	eventually(t, "the client to wait", func() bool { return len(first.conns) == 1 })
	check(t, first.Close())
	wantGone(t, s)
	other, err := net.ListenPacket("udp", at.String())
	check(t, err)
	check(t, other.Close())
}

// The client's next datagram after Close makes another Conn.
func TestUDPCloseAndAgain(t *testing.T) {
	noLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	l := openUDP(t, s, at)
	near := dial(t, "udp", at.String())
	for range 100 {
		send(t, near, "x")
		far := accepted[*Conn](t, l)
		wantRead(t, far, "x")
		check(t, far.Close())
		check(t, far.Close())
		if n, err := far.Read(make([]byte, 10)); err == nil {
			t.Fatalf("read %d bytes after Close", n)
		}
		if far.deliver([]byte("late")) {
			t.Fatal("a datagram was delivered to one that has ended")
		}
	}
	wantCounts(t, l.socket, 1, 0, 0)
}

func wantCounts(t *testing.T, u *udpSocket, users, clients, untaken int) {
	t.Helper()
	u.sockets.mu.Lock()
	gotUsers := u.users
	u.sockets.mu.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	if gotUsers != users || len(u.clients) != clients || u.untaken != untaken {
		t.Errorf("%d users, %d clients, %d untaken, want %d, %d, %d", gotUsers, len(u.clients), u.untaken, users, clients, untaken)
	}
}

// A client that ends while its next datagram makes another does not take that
// one out of the table.
func TestUDPEndMeetsDatagram(t *testing.T) {
	noLeaks(t)
	old := bareConn("a")
	u := old.socket
	old.mu.Lock()
	old.closed = true // End has come as far as this
	old.mu.Unlock()
	u.deliver(made(1), []byte("b"))
	u.remove(old, false) // and goes on
	wantCounts(t, u, 2, 1, 1)
	l, _ := u.listener()
	next := <-l.conns
	wantRead(t, next, "b")
	next.End()
	wantCounts(t, u, 1, 0, 0)
}
