package handler

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// serveUDP echoes datagrams at an address until the end of the test.
func serveUDP(t testing.TB, addr string) {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	relaytest.Check(t, err)
	ended := make(chan struct{})
	go func() { // ends with the socket
		defer close(ended)
		buf := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = conn.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	t.Cleanup(func() { conn.Close(); <-ended })
}

// rigOfBoth returns a rig whose one backend serves TCP and UDP.
func rigOfBoth(t *testing.T, edit func(*Options)) (r *rig, server *tcpServer) {
	t.Helper()
	relaytest.NoLeaks(t)
	server = serveTCP(t, lo(t, 1)+":0", greet("hello"))
	serveUDP(t, server.String())
	return newRig(t, []string{server.String()}, edit), server
}

// wantServed checks that a TCP and a UDP client are served, and returns the TCP
// client.
func (r *rig) wantServed(key Key) (tcp *net.TCPConn) {
	r.t.Helper()
	tcp, _ = r.client()
	relaytest.WantRead(r.t, tcp, "hello")
	r.wantAnswered(key)
	return tcp
}

// wantAnswered checks that a UDP client gets an answer.
func (r *rig) wantAnswered(key Key) {
	r.t.Helper()
	client := new(udpClient)
	r.relay.Deliver(key, [][]byte{[]byte("question")}, client)
	relaytest.Eventually(r.t, "an answer", func() bool { return client.answers() == 1 })
}

// wantOverLimit checks that a TCP and a UDP client are refused and counted, and
// that the backend sees neither.
func (r *rig) wantOverLimit(server *tcpServer, key Key, refusal Refusal) {
	r.t.Helper()
	before, connections := r.service.Stats(time.Now()), server.count()
	tcp, done := r.client()
	wantEnding(r.t, "the client over the limit", tcp, "RST")
	relaytest.Receive(r.t, "its end", done)
	client := new(udpClient)
	r.relay.Deliver(key, [][]byte{[]byte("question")}, client)
	client.wantReleased(r.t, 1)
	client.wants(r.t)
	if server.count() != connections {
		r.t.Error("a client over the limit reached the backend")
	}
	now := r.service.Stats(time.Now())
	if now.Active != before.Active {
		r.t.Errorf("%v are active, were %v", now.Active, before.Active)
	}
	for n := range networks {
		for kind, count := range now.Refused[n] {
			want := before.Refused[n][kind]
			if kind == refusal {
				want++
			}
			if count != want {
				r.t.Errorf("%s: %d were refused by %s, want %d", n, count, kind, want)
			}
		}
	}
}

// endSession ends a client's session.
func (r *rig) endSession(key Key) {
	r.t.Helper()
	t := r.service.sessions
	t.mu.Lock()
	s := t.byKey[key]
	t.mu.Unlock()
	if s == nil {
		r.t.Fatal("no such session")
	}
	s.end(stream.IdleTimeout)
}

// The limit counts TCP and UDP clients of all addresses together; each end makes
// room for one.
func TestMaxConnections(t *testing.T) {
	r, server := rigOfBoth(t, func(o *Options) { o.MaxConnections = 4 })
	first := r.wantServed(udpKey(1))
	r.wantServed(udpKey(2))
	r.wantOverLimit(server, udpKey(3), RefusedTooMany)
	r.wantLines("client refused, too many connections", 2, "client refused", 0)

	r.wantAnswered(udpKey(1)) // sessions under the limit are still served
	relaytest.Check(t, first.CloseWrite())
	wantEnding(t, "the first client", first, "FIN")
	relaytest.Eventually(t, "its end", func() bool { tcp, _ := r.service.Active(); return tcp == 1 })
	r.wantAnswered(udpKey(3))
	r.wantOverLimit(server, udpKey(4), RefusedTooMany)

	r.endSession(udpKey(2))
	client, _ := r.client()
	relaytest.WantRead(t, client, "hello")
	r.wantOverLimit(server, udpKey(4), RefusedTooMany)
}

// Each address has a limit of its own, which counts TCP and UDP together.
func TestMaxConnectionsPerIP(t *testing.T) {
	r, server := rigOfBoth(t, func(o *Options) { o.MaxConnectionsPerIP = 2 })
	local := netip.MustParseAddrPort("127.0.0.1:53")
	of := func(addr string) Key { return Key{Client: netip.MustParseAddrPort(addr), Local: local} }
	first := r.wantServed(of("127.0.0.1:1")) // the address of the rig's TCP clients too
	r.wantOverLimit(server, of("127.0.0.1:2"), RefusedTooManyIP)
	r.wantLines("client refused, too many connections from its address", 2, "client refused", 0)
	r.wantOverLimit(server, of("[::ffff:127.0.0.1]:3"), RefusedTooManyIP)
	r.wantAnswered(of("127.0.0.2:1"))
	r.wantAnswered(of("[2001:db8::1]:1"))

	relaytest.Reset(t, first)
	relaytest.Eventually(t, "its end", func() bool { tcp, _ := r.service.Active(); return tcp == 0 })
	r.wantAnswered(of("127.0.0.1:2"))
	r.wantOverLimit(server, of("127.0.0.1:3"), RefusedTooManyIP)
	for _, addr := range []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.2:1", "[2001:db8::1]:1"} {
		r.endSession(of(addr))
	}
	if n := len(r.service.admission.byIP); n != 0 || r.service.admission.total != 0 {
		t.Errorf("%d addresses and %d relays are still counted", n, r.service.admission.total)
	}
}

// Clients that find no backend count only while they search.
func TestRefusedClientsLeave(t *testing.T) {
	relaytest.NoLeaks(t)
	r := newRig(t, []string{deadTCP(t, "127.0.0.1:0")}, func(o *Options) { o.MaxConnections = 1 })
	for range 5 {
		client, done := r.client()
		wantEnding(t, "the client", client, "RST")
		relaytest.Receive(t, "the end of the relay", done)
	}
	refused := r.service.Stats(time.Now()).Refused[upstream.TCP]
	if refused[RefusedByBackends] != 5 || refused[RefusedTooMany] != 0 {
		t.Errorf("refused: %v", refused)
	}
}

// A client that closes and comes back at once is served, although its place is free
// only once the relay has noticed the close.
func TestClientComesBackAtTheLimit(t *testing.T) {
	relaytest.NoLeaks(t)
	server := serveTCP(t, lo(t, 1)+":0", echo)
	for name, edit := range map[string]func(*Options){
		"per address": func(o *Options) { o.MaxConnectionsPerIP = 1 },
		"in total":    func(o *Options) { o.MaxConnections = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, []string{server.String()}, edit)
			r.service.admission.queueTime = relaytest.Limit
			for i := range 300 {
				near, far := relaytest.TCPPair(t)
				r.relay.StartTCP(t.Context(), plainClient(far))
				if i%2 == 0 {
					relaytest.Write(t, near, "hello")
					relaytest.WantRead(t, near, "hello")
				}
				relaytest.Check(t, near.Close())
			}
			r.wantLines("client refused, too many connections", 0, "client refused, too many connections from its address", 0)
			relaytest.Eventually(t, "the end of all", func() bool { tcp, _ := r.service.Active(); return tcp == 0 })
		})
	}
}

// Clients are queued in their order, and for a moment only.
func TestHeldClients(t *testing.T) {
	var a admission
	opts := &Options{MaxConnections: 2}
	one, _ := a.admit(opts, netip.Addr{})
	two, _ := a.admit(opts, netip.Addr{})
	if _, refusal := a.admit(opts, netip.Addr{}); refusal != RefusedTooMany {
		t.Fatalf("refusal %q", refusal)
	}
	first, second, third := a.enqueue(opts, netip.Addr{}), a.enqueue(opts, netip.Addr{}), a.enqueue(opts, netip.Addr{})
	a.leave(one)
	a.leave(two)
	for name, h := range map[string]*queuedClient{"first": first, "second": second} {
		if _, ok := a.await(h); !ok {
			t.Errorf("the %s has no place", name)
		}
	}
	if _, ok := a.await(third); ok {
		t.Error("the third has a place")
	}
	if a.total != 2 || len(a.queue) != 0 {
		t.Errorf("%d places taken, %d queued", a.total, len(a.queue))
	}
	for range maxQueued {
		if a.enqueue(opts, netip.Addr{}) == nil {
			t.Fatal("too few can be queued")
		}
	}
	if a.enqueue(opts, netip.Addr{}) != nil {
		t.Error("too many can be queued")
	}
}

// The place of an IPv4-mapped address is that of the address itself, at its end too.
func TestMappedAddressGivesItsPlaceBack(t *testing.T) {
	r, _ := rigOfBoth(t, func(o *Options) { o.MaxConnectionsPerIP = 1 })
	mapped := Key{Client: netip.MustParseAddrPort("[::ffff:127.0.0.9]:1"), Local: netip.MustParseAddrPort("127.0.0.1:53")}
	for range 3 {
		r.wantAnswered(mapped)
		r.endSession(mapped)
	}
	if n := len(r.service.admission.byIP); n != 0 {
		t.Errorf("%d addresses are still counted", n)
	}
}

// A panic before a relay has a mover gives its place back.
func TestPanicBeforeTheMover(t *testing.T) {
	r, _ := rigOfBoth(t, func(o *Options) { o.MaxConnections = 1 })
	for range 3 {
		near, far := relaytest.TCPPair(t)
		client := plainClient(far)
		client.Socket = panickingKeepAlive{far}
		r.relay.StartTCP(t.Context(), client)
		wantEnding(t, "the client", near, "RST")
	}
	if tcp, _ := r.service.Active(); tcp != 0 || r.service.admission.total != 0 {
		t.Errorf("%d relays are active, %d places taken", tcp, r.service.admission.total)
	}
	client, _ := r.client()
	relaytest.WantRead(t, client, "hello")
}

// panickingKeepAlive is a socket that panics when its keep-alive is set.
type panickingKeepAlive struct{ *net.TCPConn }

func (panickingKeepAlive) SetKeepAliveConfig(net.KeepAliveConfig) error { panic("keep-alive") }
