package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/takeover"
)

// generation stands for a process. It serves UDP clients that it takes directly, and
// echoes what they send with its name.
type generation struct {
	*Sockets
	t    *testing.T
	name string
	udp  *UDPListener
	tcp  *TCPListener
	link *takeover.Link // to the next generation

	mu    sync.Mutex
	conns map[string]*Conn // by client
}

func newGeneration(t *testing.T, name string) *generation {
	g := &generation{Sockets: NewSockets(), t: t, name: name, conns: make(map[string]*Conn)}
	if !netio.Disabled("engine") {
		g.watchAll()
	}
	return g
}

// listen opens listeners on an address.
func (g *generation) listen(at SocketAddress) {
	g.t.Helper()
	opts := quiet()
	opts.TakeUDP = func(c *Conn) Sink {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.conns[c.Client().String()] = c
		return each(func(datagram []byte) { _ = c.Reply([][]byte{append([]byte(g.name+" "), datagram...)}) })
	}
	var err error
	g.udp, err = g.UDP(at.At, opts)
	relaytest.Check(g.t, err)
	g.tcp, err = g.TCP(at.At, quiet())
	relaytest.Check(g.t, err)
	g.t.Cleanup(g.close)
}

func (g *generation) close() {
	_ = g.udp.Close()
	_ = g.tcp.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.conns {
		c.End()
	}
}

// end ends the client of a connection.
func (g *generation) end(client net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns[client.LocalAddr().String()].End()
}

// offer passes the sockets to the next generation, which listens on them.
func (g *generation) offer(name string, at SocketAddress) *generation {
	g.t.Helper()
	next := newGeneration(g.t, name)
	shared, err := g.Shared()
	relaytest.Check(g.t, err)
	next.Expect(shared...)
	next.listen(at)
	return next
}

// take makes the next generation take the sockets.
func (g *generation) take(next *generation) {
	t := g.t
	t.Helper()
	relaytest.Check(t, g.Suspend(context.Background()))
	near, file, err := netio.MessagePair()
	relaytest.Check(t, err)
	g.link = takeover.NewLink(near)
	links := map[*takeover.Link][]takeover.Key{newLink(t, file): g.HandOver(g.link)}
	for older := range g.Elsewhere() {
		relaytest.Check(t, older.Stop(relaytest.Limit))
	}
	for older, keys := range g.Elsewhere() {
		file, err := older.File()
		relaytest.Check(t, err)
		links[newLink(t, file)] = keys
	}
	for link, keys := range links {
		relaytest.Check(t, next.Follow(link, keys, zap.NewNop()))
		link.Start(next)
		t.Cleanup(link.Close)
	}
	next.Begin()
	g.link.Start(g)
	t.Cleanup(g.link.Close)
	g.HandedOver()
	relaytest.Check(t, g.udp.Close())
	relaytest.Check(t, g.tcp.Close())
}

// newLink returns the link of a file, which it closes.
func newLink(t *testing.T, file *os.File) *takeover.Link {
	t.Helper()
	conn, err := netio.MessageConn(file)
	relaytest.Check(t, err)
	file.Close()
	return takeover.NewLink(conn)
}

// answer sends a datagram and returns the answer.
func answer(t *testing.T, conn net.Conn, datagram string) string {
	t.Helper()
	send(t, conn, datagram)
	relaytest.Check(t, conn.SetReadDeadline(time.Now().Add(relaytest.Limit)))
	buf := make([]byte, 1<<16)
	n, err := conn.Read(buf)
	relaytest.Check(t, err)
	return string(buf[:n])
}

func wantAnswer(t *testing.T, conn net.Conn, datagram, want string) {
	t.Helper()
	if got := answer(t, conn, datagram); got != want {
		t.Errorf("the answer to %q is %q, want %q", datagram, got, want)
	}
}

// The clients of each generation stay with it, from the address that they know, and new
// ones go to the last. When a client has ended in its generation, the last one takes it.
func TestGenerations(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "0.0.0.0", ""} {
		for _, off := range []string{"", "engine,batch,gso"} {
			t.Run(host+" without "+off, func(t *testing.T) {
				t.Setenv("RELAY_DISABLE", off)
				relaytest.NoLeaks(t)
				at := SocketAddress{"udp", freeAddr(t, host)}
				var all []*generation
				var clients []net.Conn
				next := newGeneration(t, "0")
				next.listen(at)
				for i := range 4 {
					all = append(all, next)
					client := dial(t, "udp", to("127.0.0.7", at.At))
					if host == "127.0.0.1" {
						client = dial(t, "udp", at.At.String())
					}
					clients = append(clients, client) // connected, so it gets answers from the address that it sends to alone
					for j, client := range clients {
						wantAnswer(t, client, "x", fmt.Sprint(j, " x"))
						wantAnswer(t, client, "", fmt.Sprint(j, " "))
					}
					if i < 3 {
						next = all[i].offer(fmt.Sprint(i+1), at)
						all[i].take(next)
					}
				}
				for j, client := range clients {
					all[j].end(client)
					relaytest.Eventually(t, "the last generation to take a client", func() bool { return answer(t, client, "again") == "3 again" })
				}
				for _, g := range all[:3] {
					relaytest.Eventually(t, "an old generation to close its sockets", func() bool { return len(g.openUDP()) == 0 })
					wantNoSockets(t, g.Sockets)
				}
			})
		}
	}
}

// Clients that connect while nobody accepts wait, and none is refused.
func TestHandoverTCP(t *testing.T) {
	for _, off := range []string{"", "engine"} {
		t.Run("without "+off, func(t *testing.T) {
			t.Setenv("RELAY_DISABLE", off)
			relaytest.NoLeaks(t)
			at := SocketAddress{"udp", freeAddr(t, "127.0.0.1")}
			old := newGeneration(t, "old")
			old.listen(at)
			next := old.offer("new", at)
			first := dial(t, "tcp", at.At.String())
			kept := accepted[net.Conn](t, old.tcp)
			relaytest.Check(t, old.Suspend(context.Background()))
			waiting := dial(t, "tcp", at.At.String())
			send(t, waiting, "hello")
			old.Resume()
			wantRead(t, accepted[net.Conn](t, old.tcp), "hello") // the takeover had failed
			old.take(next)
			send(t, first, "still here")
			wantRead(t, kept, "still here")
			last := dial(t, "tcp", at.At.String())
			send(t, last, "new")
			wantRead(t, accepted[net.Conn](t, next.tcp), "new")
		})
	}
}

// Datagrams of one client stay in order, and none is lost, while the reader changes.
func TestHandoverKeepsOrder(t *testing.T) {
	relaytest.NoLeaks(t)
	at := SocketAddress{"udp", freeAddr(t, "127.0.0.1")}
	current := newGeneration(t, "0")
	current.listen(at)
	client := dial(t, "udp", at.At.String())
	wantAnswer(t, client, "begin", "0 begin")
	first := current
	taken := make(chan struct{}) // closed after the last takeover
	result := make(chan error, 1)
	go func() { // ends with the answer to the last datagram
		const most = 100 // without an answer: they fit into the buffers of the sockets
		buf := make([]byte, 100)
		for sent, answered := 0, 0; ; answered++ {
			for ; sent < answered+most && !isClosed(taken); sent++ {
				_, _ = fmt.Fprint(client, sent)
			}
			if answered == sent {
				result <- nil
				return
			}
			_ = client.SetReadDeadline(time.Now().Add(relaytest.Limit))
			n, err := client.Read(buf)
			if got, want := string(buf[:n]), fmt.Sprint("0 ", answered); err != nil || got != want {
				result <- fmt.Errorf("answer %d is %q, %v; %d datagrams were sent", answered, got, err, sent)
				return
			}
		}
	}()
	for i := range 3 {
		next := current.offer(fmt.Sprint(i+1), at)
		current.take(next)
		current = next
	}
	close(taken)
	relaytest.Check(t, <-result)
	first.end(client)
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// If the new process fails, the old one reads again what came meanwhile, and its clients
// have not noticed.
func TestHandoverFails(t *testing.T) {
	relaytest.NoLeaks(t)
	at := SocketAddress{"udp", freeAddr(t, "127.0.0.1")}
	old := newGeneration(t, "old")
	old.listen(at)
	client, later := dial(t, "udp", at.At.String()), dial(t, "udp", at.At.String())
	wantAnswer(t, client, "x", "old x")
	relaytest.Check(t, old.Suspend(context.Background()))
	near, file, err := netio.MessagePair()
	relaytest.Check(t, err)
	link := takeover.NewLink(near)
	if keys := old.HandOver(link); len(keys) != 1 || keys[0].Client.String() != client.LocalAddr().String() {
		t.Errorf("keys %v", keys)
	}
	send(t, client, "y")
	send(t, later, "z")
	old.Resume()
	link.Close()
	file.Close()
	wantDatagram(t, client, []byte("old y"))
	wantDatagram(t, later, []byte("old z"))
	old.end(client)
	wantAnswer(t, client, "again", "old again")
}

// When the process that reads the sockets has ended, the clients of the old one end, so
// that the address is free. When an old process has ended, its clients are new ones.
func TestOtherGenerationEnds(t *testing.T) {
	relaytest.NoLeaks(t)
	at := SocketAddress{"udp", freeAddr(t, "127.0.0.1")}
	old := newGeneration(t, "old")
	old.listen(at)
	client := dial(t, "udp", at.At.String())
	wantAnswer(t, client, "x", "old x")
	next := old.offer("new", at)
	old.take(next)
	wantAnswer(t, client, "x", "old x")
	old.end(client)
	old.Finish(relaytest.Limit)
	wantAnswer(t, client, "x", "new x")
	last := next.offer("last", at)
	next.take(last)
	wantAnswer(t, client, "x", "new x")
	for link := range last.Elsewhere() { // as if the last process had ended
		link.Close()
	}
	relaytest.Eventually(t, "the clients to end", func() bool { return len(next.openUDP()) == 0 })
	relaytest.Eventually(t, "the reader to take the client", func() bool { return len(last.Elsewhere()) == 0 })
	wantAnswer(t, client, "x", "last x")
}

// A socket that the new config does not list is still read for the clients of the old
// process, until the last of them has ended.
func TestHandoverOfUnlistedSocket(t *testing.T) {
	relaytest.NoLeaks(t)
	at, other := SocketAddress{"udp", freeAddr(t, "127.0.0.1")}, SocketAddress{"udp", freeAddr(t, "127.0.0.1")}
	old := newGeneration(t, "old")
	old.listen(other)
	client := dial(t, "udp", other.At.String())
	wantAnswer(t, client, "x", "old x")
	old.udp.Close()
	old.tcp.Close()
	old.listen(at)
	if listening := old.Listening(); len(listening) != 2 || slices.Contains(listening, other) {
		t.Errorf("listening on %v", listening)
	}
	next := old.offer("new", at)
	old.take(next)
	wantAnswer(t, client, "y", "old y")
	old.end(client)
	relaytest.Eventually(t, "the socket to close", func() bool { return len(next.openUDP()) == 1 })
	conn, err := net.ListenPacket("udp", other.At.String())
	relaytest.Check(t, err)
	conn.Close()
}

// A goroutine that cannot stop makes Suspend fail, and then all goes on.
func TestSuspendFails(t *testing.T) {
	relaytest.NoLeaks(t)
	s := NewSockets()
	l := openTCP(t, s, freeAddr(t, "127.0.0.1"))
	dial(t, "tcp", l.Addr().String()) // is accepted, and waits for Accept
	relaytest.Eventually(t, "the client to be accepted", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		err := s.Suspend(ctx)
		if err == nil {
			s.Resume()
		} else if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		return err != nil
	})
	accepted[net.Conn](t, l)
	dial(t, "tcp", l.Addr().String())
	accepted[net.Conn](t, l)
}
