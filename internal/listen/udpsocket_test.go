package listen

import (
	"net"
	"net/netip"
	"testing"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// client returns a client that was taken over, and a channel of its datagrams.
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
	if got := relaytest.Receive(t, "a datagram", taken); got != datagram {
		t.Fatalf("got %s, want %s", brief(got), brief(datagram))
	}
}

// A socket without listeners stays open for its clients, takes no new ones, and
// closes with the last client. A listener opened before that uses the same socket.
func TestSocketStaysOpenForClients(t *testing.T) {
	relaytest.NoLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	first := openUDP(t, s, at)
	ann, annFar, annTaken := client(t, first, at.String())
	_, bobFar, _ := client(t, first, at.String())
	relaytest.Check(t, first.Close())
	cid := dial(t, "udp", at.String())
	send(t, cid, "ignored")
	_, err := ann.Write([]byte("still here"))
	relaytest.Check(t, err)
	want(t, annTaken, "still here") // so the datagram before it was read too
	wantCounts(t, first.socket, 2, 2, 0)

	second := openUDP(t, s, at)
	if second.socket != first.socket {
		t.Fatal("the socket was bound twice")
	}
	send(t, cid, "now")
	cidFar := accepted[*Conn](t, second)
	wantRead(t, cidFar, "now")
	_, err = ann.Write([]byte("as ever"))
	relaytest.Check(t, err)
	want(t, annTaken, "as ever")
	relaytest.Check(t, second.Close())

	relaytest.Check(t, cidFar.Close())
	bobFar.End()
	wantCounts(t, first.socket, 1, 1, 0)
	annFar.End()
	annFar.End()
	wantNoSockets(t, s)
	again := openUDP(t, s, at)
	if again.socket == first.socket {
		t.Error("a closed socket was reused")
	}
	client(t, again, at.String())
}

// New clients of a socket without listeners go to the listener on a wildcard socket
// that covers its address.
func TestCoveredSocket(t *testing.T) {
	for _, wide := range []string{"", "0.0.0.0"} {
		t.Run(wide, func(t *testing.T) {
			relaytest.NoLeaks(t)
			s := NewSockets()
			narrow := freeAddr(t, "127.0.0.1")
			first := openUDP(t, s, narrow)
			ann, _, annTaken := client(t, first, narrow.String())
			waiting := dial(t, "udp", narrow.String())
			send(t, waiting, "hello")
			relaytest.Eventually(t, "a client to be queued", func() bool { return len(first.conns) == 1 })
			second := openUDP(t, s, address(t, wide, narrow.Port()))
			relaytest.Check(t, first.Close())
			wantRead(t, accepted[*Conn](t, second), "hello")

			bob := dial(t, "udp", narrow.String())
			send(t, bob, "hello")
			bobFar := accepted[*Conn](t, second)
			wantRead(t, bobFar, "hello")
			send(t, bobFar, "answer")
			wantRead(t, bob, "answer")
			if bobFar.socket != first.socket {
				t.Error("the kernel delivered to the wider socket")
			}
			_, err := ann.Write([]byte("still here"))
			relaytest.Check(t, err)
			want(t, annTaken, "still here")

			relaytest.Check(t, second.Close())
			endAll(s)
			wantNoSockets(t, s)
		})
	}
}

// When an address of a wildcard socket gets a socket of its own, that address's
// clients begin again there, with the same addresses. The other clients stay.
func TestNarrowerSocket(t *testing.T) {
	relaytest.NoLeaks(t)
	s := NewSockets()
	wide := freeAddr(t, "0.0.0.0")
	first := openUDP(t, s, wide)
	ann, annFar, _ := client(t, first, to("127.0.0.1", wide))
	bob, _, bobTaken := client(t, first, to("127.0.0.2", wide))
	second := openUDP(t, s, address(t, "127.0.0.1", wide.Port()))
	relaytest.Check(t, first.Close())
	_, err := ann.Write([]byte("again"))
	relaytest.Check(t, err)
	annAgain := accepted[*Conn](t, second)
	wantRead(t, annAgain, "again")
	if annAgain.Client() != annFar.Client() || annAgain.Local() != annFar.Local() {
		t.Errorf("was %v to %v, is %v to %v", annFar.Client(), annFar.Local(), annAgain.Client(), annAgain.Local())
	}
	_, err = bob.Write([]byte("still here"))
	relaytest.Check(t, err)
	want(t, bobTaken, "still here")
}

// A socket without listeners is covered by the wildcard socket that the kernel
// would choose.
func TestCoveringSocket(t *testing.T) {
	relaytest.NoLeaks(t)
	const port = 1
	for _, c := range []struct{ bound, open, other, want string }{
		{"127.0.0.1", "0.0.0.0", "::", "0.0.0.0"}, // more specific than ::
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
		covered := socket(c.bound)
		for _, host := range []string{c.open, c.other} {
			u := socket(host)
			relaytest.Check(t, u.listeners.add(&UDPListener{socket: u}, host))
		}
		var got string
		if l, ok := covered.listener(); ok {
			got = l.socket.at.Addr().String()
		}
		if got != c.want {
			t.Errorf("%s, with %s and %s: %q, want %q", c.bound, c.open, c.other, got, c.want)
		}
	}
}

// If the kernel grants smaller buffers, one line names the sysctl to raise.
func TestSocketBufferLimits(t *testing.T) {
	relaytest.NoLeaks(t)
	opts, logs := observed()
	u := &udpSocket{at: freeAddr(t, "127.0.0.1")}
	u.logLimits(opts.Log, socketBuffer, socketBuffer)
	if logs.Len() != 0 {
		t.Errorf("all was granted, but logged: %v", logs.All())
	}
	u.logLimits(opts.Log, 212992, socketBuffer)
	lines := logs.FilterMessage("kernel limits socket buffer").FilterField(zap.Int("got", 212992)).FilterField(zap.Int("wanted", socketBuffer))
	if lines = lines.FilterField(zap.Strings("sysctl", []string{"net.core.rmem_max"})); lines.Len() != 1 {
		t.Errorf("logged: %v", logs.All())
	}
}
