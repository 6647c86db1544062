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
