package listen

import (
	"net"
	"net/netip"
	"testing"
)

// client is a client that has been taken over, and what it sends.
func client(t *testing.T, l *UDPListener, at string) (near net.Conn, far *Conn, taken chan string) {
	t.Helper()
	conn := dial(t, "udp", at)
	send(t, conn, "begin")
	far = accepted[*Conn](t, l)
	taken = make(chan string, 100)
	far.Take(0, each(func(datagram []byte) { taken <- string(datagram) }))
	want(t, taken, "begin")
	return conn, far, taken
}

func want(t *testing.T, taken <-chan string, datagram string) {
	t.Helper()
	if got := receive(t, "a datagram", taken); got != datagram {
		t.Fatalf("got %s, want %s", brief(got), brief(datagram))
	}
}

// A socket without listeners lingers for its clients, takes no new ones, and
// closes with the last; a listener that comes meanwhile joins it.
func TestLinger(t *testing.T) {
	noLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	first := openUDP(t, s, at)
	ann, annFar, annTaken := client(t, first, at.String())
	_, bobFar, _ := client(t, first, at.String())
	check(t, first.Close())
	cid := dial(t, "udp", at.String())
	send(t, cid, "is anybody there")
	_, err := ann.Write([]byte("still here"))
	check(t, err)
	want(t, annTaken, "still here") // so cid's has been read, too
	wantCounts(t, first.socket, 2, 2, 0)

	second := openUDP(t, s, at)
	if second.socket != first.socket {
		t.Fatal("the socket was bound twice")
	}
	send(t, cid, "now")
	cidFar := accepted[*Conn](t, second)
	wantRead(t, cidFar, "now")
	_, err = ann.Write([]byte("as ever"))
	check(t, err)
	want(t, annTaken, "as ever")
	check(t, second.Close())

	check(t, cidFar.Close())
	bobFar.End()
	wantCounts(t, first.socket, 1, 1, 0)
	annFar.End()
	annFar.End()
	wantGone(t, s)
	again := openUDP(t, s, at)
	if again.socket == first.socket {
		t.Error("a closed socket was used")
	}
	client(t, again, at.String())
}

// New clients that come by a lingering socket go to the listener which has
// taken over its address.
func TestLingerCovered(t *testing.T) {
	for _, wide := range []string{"", "0.0.0.0"} {
		t.Run(wide, func(t *testing.T) {
			noLeaks(t)
			s := NewSockets()
			narrow := freeAddr(t, "127.0.0.1")
			first := openUDP(t, s, narrow)
			ann, _, annTaken := client(t, first, narrow.String())
			waiting := dial(t, "udp", narrow.String())
			send(t, waiting, "hello")
			eventually(t, "a client to wait", func() bool { return len(first.conns) == 1 })
			second := openUDP(t, s, address(t, wide, narrow.Port()))
			check(t, first.Close())
			wantRead(t, accepted[*Conn](t, second), "hello")

			bob := dial(t, "udp", narrow.String())
			send(t, bob, "hello")
			bobFar := accepted[*Conn](t, second)
			wantRead(t, bobFar, "hello")
			send(t, bobFar, "answer")
			wantRead(t, bob, "answer")
			if bobFar.socket != first.socket {
				t.Error("the kernel gave a datagram to the wider socket")
			}
			_, err := ann.Write([]byte("still here"))
			check(t, err)
			want(t, annTaken, "still here")

			check(t, second.Close())
			endAll(s)
			wantGone(t, s)
		})
	}
}

// The clients of a wildcard socket at an address that gets a socket of its own
// come again by that one, as the same ends; those elsewhere stay.
func TestNarrowerSocket(t *testing.T) {
	noLeaks(t)
	s := NewSockets()
	wide := freeAddr(t, "0.0.0.0")
	first := openUDP(t, s, wide)
	ann, annFar, _ := client(t, first, to("127.0.0.1", wide))
	bob, _, bobTaken := client(t, first, to("127.0.0.2", wide))
	second := openUDP(t, s, address(t, "127.0.0.1", wide.Port()))
	check(t, first.Close())
	_, err := ann.Write([]byte("again"))
	check(t, err)
	annAgain := accepted[*Conn](t, second)
	wantRead(t, annAgain, "again")
	if annAgain.Client() != annFar.Client() || annAgain.Local() != annFar.Local() {
		t.Errorf("it was %v at %v, and is %v at %v", annFar.Client(), annFar.Local(), annAgain.Client(), annAgain.Local())
	}
	_, err = bob.Write([]byte("still here"))
	check(t, err)
	want(t, bobTaken, "still here")
}

// Who takes over a lingering socket's address.
func TestCover(t *testing.T) {
	noLeaks(t)
	const port = 1
	for _, c := range []struct{ lingering, open, other, want string }{
		{"127.0.0.1", "0.0.0.0", "::", "0.0.0.0"}, // as the kernel would
		{"127.0.0.1", "::", "::1", "::"},
		{"127.0.0.1", "127.0.0.2", "::1", ""},
		{"::1", "0.0.0.0", "::", "::"},
		{"::1", "0.0.0.0", "127.0.0.1", ""},
		{"0.0.0.0", "::", "127.0.0.1", "::"},
		{"::", "0.0.0.0", "127.0.0.1", ""},
	} {
		s := NewSockets()
		socket := func(host string) *udpSocket {
			at := netip.AddrPortFrom(netip.MustParseAddr(host), port)
			u := &udpSocket{sockets: s, at: at}
			s.udp[at] = u
			return u
		}
		lingering := socket(c.lingering)
		for _, host := range []string{c.open, c.other} {
			u := socket(host)
			check(t, u.listeners.add(&UDPListener{socket: u}, host))
		}
		var got string
		if l, ok := lingering.listener(); ok {
			got = l.socket.at.Addr().String()
		}
		if got != c.want {
			t.Errorf("%s, with %s and %s: %q, want %q", c.lingering, c.open, c.other, got, c.want)
		}
	}
}
