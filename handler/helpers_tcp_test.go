package handler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/stream"
)

// tcpServer is a backend: each connection is given to serve on a goroutine.
type tcpServer struct {
	listener *net.TCPListener
	mu       sync.Mutex
	accepted []*net.TCPConn
	done     sync.WaitGroup
}

// serveTCP listens on an address such as "127.0.0.1:0". Everything is closed
// at the end of the test.
func serveTCP(t testing.TB, addr string, serve func(*net.TCPConn)) *tcpServer {
	t.Helper()
	listener, err := net.Listen("tcp", addr)
	check(t, err)
	s := &tcpServer{listener: listener.(*net.TCPListener)}
	s.serve(t, serve)
	return s
}

func (s *tcpServer) serve(t testing.TB, serve func(*net.TCPConn)) {
	s.done.Go(func() {
		for {
			conn, err := s.listener.AcceptTCP()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.accepted = append(s.accepted, conn)
			s.mu.Unlock()
			s.done.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		s.listener.Close()
		s.mu.Lock()
		for _, conn := range s.accepted {
			conn.Close()
		}
		s.mu.Unlock()
		s.done.Wait()
	})
}

func (s *tcpServer) String() string { return s.listener.Addr().String() }

// count is how many connections have come in.
func (s *tcpServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.accepted)
}

// echo sends back what comes, and ends when the peer does.
func echo(conn *net.TCPConn) { _, _ = io.Copy(conn, conn) }

// greet says a word first and then echoes: it shows which backend serves.
func greet(word string) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, word)
		echo(conn)
	}
}

// handOver is a server whose connections are driven by the test.
func handOver(t testing.TB, addr string) (*tcpServer, <-chan *net.TCPConn) {
	t.Helper()
	conns := make(chan *net.TCPConn)
	over := make(chan struct{})
	s := serveTCP(t, addr, func(conn *net.TCPConn) {
		select {
		case conns <- conn:
			<-over
		case <-over:
		}
	})
	t.Cleanup(func() { close(over) })
	return s, conns
}

// silentTCP is an address that does not answer: its backlog is full, so that
// Linux drops each SYN. Its wake lets connections in again, and serve has them.
type silentTCP struct {
	tcpServer
	t testing.TB
}

func newSilentTCP(t testing.TB, addr string) *silentTCP {
	t.Helper()
	listener, err := net.Listen("tcp", addr)
	check(t, err)
	s := &silentTCP{tcpServer{listener: listener.(*net.TCPListener)}, t}
	t.Cleanup(func() { listener.Close() })
	setBacklog(t, s.listener, 0)
	for full := false; !full; {
		conn, err := net.DialTimeout("tcp", s.String(), 100*time.Millisecond)
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			continue
		}
		if full = errors.Is(err, context.DeadlineExceeded) || isTimeout(err); !full {
			t.Fatal(err)
		}
	}
	return s
}

// wake makes it an ordinary server.
func (s *silentTCP) wake(serve func(*net.TCPConn)) {
	s.t.Helper()
	setBacklog(s.t, s.listener, 128)
	s.serve(s.t, serve)
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// lo is the n-th loopback address of a test's own, n from 1 to 254: whatever
// port is free on one is free on the others, too.
func lo(t testing.TB, n int) string {
	block, known := loBlocks.Load(t)
	if !known {
		block = loCount.Add(1)
		loBlocks.Store(t, block)
	}
	return fmt.Sprintf("127.%d.%d.%d", 1+block.(int32)/256%254, block.(int32)%256, n)
}

var (
	loBlocks sync.Map // the middle of their addresses by tests
	loCount  atomic.Int32
)

// hostPort joins an address and the port of another.
func hostPort(ip string, samePort string) string {
	_, port, err := net.SplitHostPort(samePort)
	if err != nil {
		panic(err)
	}
	return net.JoinHostPort(ip, port)
}

// tcpPair is a connection over loopback, both ends of it.
func tcpPair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	accepted, err := listener.Accept()
	check(t, err)
	t.Cleanup(func() { accepted.Close() })
	return conn.(*net.TCPConn), accepted.(*net.TCPConn)
}

// client connects a client to the relay. done is closed when its relay is over,
// which the end of the test waits for.
func (r *rig) client() (conn *net.TCPConn, done <-chan struct{}) {
	r.t.Helper()
	near, far := tcpPair(r.t)
	return near, r.serve(context.Background(), plain(far))
}

// plain is the client of a socket that nothing wraps.
func plain(conn *net.TCPConn) stream.Client {
	return stream.Client{
		Conn: conn, CloseWrite: conn.CloseWrite, Socket: conn,
		Detach: func() (int, error) { return netio.Detach(conn) },
	}
}

// serve runs ServeTCP for a client.
func (r *rig) serve(ctx context.Context, c stream.Client) <-chan struct{} {
	r.t.Helper()
	done := make(chan struct{})
	client, local := c.Conn.RemoteAddr().String(), c.Conn.LocalAddr().String()
	go func() {
		defer close(done)
		r.relay.ServeTCP(ctx, c)
		for r.relayOf(client, local) != nil { // on a loop
			time.Sleep(time.Millisecond)
		}
	}()
	r.t.Cleanup(func() { // a client that leaves ends whatever is done for it
		if c.Socket != nil {
			c.Socket.Close()
		} else {
			c.Conn.Close()
		}
		if relay := r.relayOf(client, local); relay != nil { // it has a socket of its own
			relay.cut(stream.ClientReset)
		}
		receiveFrom(r.t, "the end of a relay", done)
	})
	return done
}

// relayOf is a client's relay at work; nil if there is none. Clients of two
// listeners may have the same address.
func (r *rig) relayOf(client, local string) *tcpRelay {
	r.service.mu.Lock()
	defer r.service.mu.Unlock()
	for t := r.service.relays; t != nil; t = t.next {
		if t.client.String() == client && t.local.String() == local {
			return t
		}
	}
	return nil
}

// say sends a text.
func say(t testing.TB, conn net.Conn, text string) {
	t.Helper()
	_, err := io.WriteString(conn, text)
	check(t, err)
}

// hear reads exactly a text.
func hear(t testing.TB, conn net.Conn, text string) {
	t.Helper()
	check(t, conn.SetReadDeadline(time.Now().Add(limit)))
	got := make([]byte, len(text))
	if n, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("heard %q, %v; want %q", got[:n], err, text)
	}
}

// ending is how a connection ended for its reader: "FIN", "RST" or "timeout".
func ending(conn net.Conn) string {
	_ = conn.SetReadDeadline(time.Now().Add(limit))
	_, err := io.Copy(io.Discard, conn)
	switch {
	case err == nil:
		return "FIN"
	case errors.Is(err, syscall.ECONNRESET):
		return "RST"
	case isTimeout(err):
		return "timeout"
	default:
		return err.Error()
	}
}

// wantEnding checks how a connection ends.
func wantEnding(t testing.TB, who string, conn net.Conn, want string) {
	t.Helper()
	if got := ending(conn); got != want {
		t.Errorf("%s saw %s, want %s", who, got, want)
	}
}

// resetNow has the peer see a reset.
func resetNow(t testing.TB, conn *net.TCPConn) {
	t.Helper()
	check(t, conn.SetLinger(0))
	check(t, conn.Close())
}

func dialTCP(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, limit)
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}
