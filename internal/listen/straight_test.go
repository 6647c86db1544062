package listen

import (
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"
)

// Clients may be taken past Accept; the latest listener decides.
func TestTakenPastAccept(t *testing.T) {
	noLeaks(t)
	s, at := NewSockets(), freeAddr(t, "127.0.0.1")
	taken := make(chan net.Conn, 1)
	opts := quiet()
	opts.TakeTCP = func(conn net.Conn) { taken <- conn }
	straight, err := s.TCP(at, opts)
	check(t, err)
	peer := dial(t, "tcp", at.String())
	conn := receive(t, "a client", taken)
	if conn.RemoteAddr().String() != peer.LocalAddr().String() {
		t.Errorf("took %v, not %v", conn.RemoteAddr(), peer.LocalAddr())
	}
	conn.Close()

	asks := openTCP(t, s, at)
	dial(t, "tcp", at.String())
	accepted[net.Conn](t, asks).Close()
	check(t, asks.Close())
	dial(t, "tcp", at.String())
	receive(t, "a client", taken).Close()
	check(t, straight.Close())
}

// One who takes his time with a client does not keep the others waiting for
// long where there is a processor that has nothing to do.
func TestTakenSideBySide(t *testing.T) {
	noLeaks(t)
	if _, light := listenLight(t); !light || runtime.GOMAXPROCS(0) < 2 {
		t.Skip("clients are accepted by one goroutine here")
	}
	s, at := NewSockets(), freeAddr(t, "127.0.0.1")
	const clients = 4 * crowded
	var all sync.WaitGroup
	all.Add(clients)
	once, release := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	taken, busy, most := 0, 0, 0
	opts := quiet()
	opts.TakeTCP = func(conn net.Conn) {
		defer all.Done()
		defer conn.Close()
		mu.Lock()
		taken++
		first := taken == 1
		busy++
		most = max(most, busy)
		mu.Unlock()
		if first { // all others come meanwhile
			close(once)
			<-release
		} else {
			time.Sleep(time.Millisecond)
		}
		mu.Lock()
		busy--
		mu.Unlock()
	}
	l, err := s.TCP(at, opts)
	check(t, err)
	dial(t, "tcp", at.String())
	receive(t, "the first client", once)
	for range clients - 1 {
		dial(t, "tcp", at.String())
	}
	close(release)
	all.Wait()
	if most < 2 {
		t.Errorf("%d clients, and never more than %d taken at once", clients, most)
	}
	if most > runtime.GOMAXPROCS(0) {
		t.Errorf("%d clients taken at once", most)
	}
	check(t, l.Close())
}

// listenLight says whether sockets are accepted from as descriptors here.
func listenLight(t *testing.T) (acceptor, bool) {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	check(t, err)
	a, err := newAcceptor(ln)
	check(t, err)
	check(t, a.Close())
	_, plain := a.(plainAcceptor)
	return a, !plain
}

// New clients of UDP are taken at once up to a number in each batch; those
// above it queue for Accept, in good order, and old ones are not held up.
func TestTakenPastAcceptUDP(t *testing.T) {
	noLeaks(t)
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
	check(t, err)
	peer := dial(t, "udp", at.String())
	ask := func(text string) {
		t.Helper()
		_, err := peer.Write([]byte(text))
		check(t, err)
		if g := receive(t, "a datagram", taken); g.text != text || g.client.String() != peer.LocalAddr().String() {
			t.Errorf("took %q of %v", g.text, g.client)
		}
		buf := make([]byte, 10)
		check(t, peer.SetReadDeadline(time.Now().Add(patience)))
		if n, err := peer.Read(buf); err != nil || string(buf[:n]) != text {
			t.Errorf("the client got %q, %v", buf[:n], err)
		}
	}
	ask("one")
	ask("two")
	ask("end")
	ask("again") // by another Conn
	ask("end")
	check(t, l.Close())
}

// A flood of new clients in one batch: so many are taken, the others queue.
func TestTakenPastAcceptIsBounded(t *testing.T) {
	noLeaks(t)
	s, at := NewSockets(), freeAddr(t, "127.0.0.1")
	taken := 0
	opts := quiet()
	opts.TakeUDP = func(c *Conn) func([][]byte) {
		taken++
		return func([][]byte) { c.End() }
	}
	l, err := s.UDP(at, opts)
	check(t, err)
	socket := l.socket
	// As the reading goroutine would: it has nothing to read now.
	socket.fresh = 0
	for port := range maxFresh + 5 {
		socket.deliver(key{client: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(1000+port))}, []byte("x"))
	}
	if taken != maxFresh || len(l.conns) != 5 {
		t.Errorf("%d taken, %d in the queue", taken, len(l.conns))
	}
	for range 5 {
		accepted[*Conn](t, l).Close()
	}
	check(t, l.Close())
}
