package handler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
)

// tcpServer is a backend. It serves each connection on a goroutine.
type tcpServer struct {
	listener *net.TCPListener
	mu       sync.Mutex
	accepted []*net.TCPConn
	done     sync.WaitGroup
}

// serveTCP starts a server on an address such as "127.0.0.1:0". The server and its
// connections are closed when the test ends.
func serveTCP(t testing.TB, addr string, serve func(*net.TCPConn)) *tcpServer {
	t.Helper()
	listener, err := net.Listen("tcp", addr)
	relaytest.Check(t, err)
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

// count returns the number of connections accepted so far.
func (s *tcpServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.accepted)
}

// echo sends back the bytes of a connection until its peer finishes.
func echo(conn *net.TCPConn) { _, _ = io.Copy(conn, conn) }

// greet returns a function that writes word and then echoes. Clients recognize
// their backend by word.
func greet(word string) func(*net.TCPConn) {
	return func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, word)
		echo(conn)
	}
}

// acceptTCP starts a server that passes its connections to the test.
func acceptTCP(t testing.TB, addr string) (*tcpServer, <-chan *net.TCPConn) {
	t.Helper()
	conns := make(chan *net.TCPConn)
	ended := make(chan struct{})
	s := serveTCP(t, addr, func(conn *net.TCPConn) {
		select {
		case conns <- conn:
			<-ended
		case <-ended:
		}
	})
	t.Cleanup(func() { close(ended) })
	return s, conns
}

// silentTCP is an address that does not answer, because its backlog is full. After
// wake it is an ordinary server.
type silentTCP struct {
	tcpServer
	t testing.TB
}

func newSilentTCP(t testing.TB, addr string) *silentTCP {
	t.Helper()
	listener, err := net.Listen("tcp", addr)
	relaytest.Check(t, err)
	s := &silentTCP{tcpServer{listener: listener.(*net.TCPListener)}, t}
	t.Cleanup(func() { listener.Close() })
	relaytest.FillBacklog(t, s.listener)
	return s
}

// wake makes the address accept and serve connections.
func (s *silentTCP) wake(serve func(*net.TCPConn)) {
	s.t.Helper()
	relaytest.SetBacklog(s.t, s.listener, 128)
	s.serve(s.t, serve)
}

// lo returns the n-th loopback address of a test, n from 1 to 254. No other test
// has it, and none of another process, so a port that is free on one address of a
// test is free on all of them.
func lo(t testing.TB, n int) string {
	block, known := loBlocks.Load(t)
	if !known {
		block = loCount.Add(1)
		loBlocks.Store(t, block)
	}
	return fmt.Sprintf("127.%d.%d.%d", 1+os.Getpid()%254, block.(int32)%256, n)
}

var (
	loBlocks sync.Map // by test, the number that its addresses have in the middle
	loCount  atomic.Int32
)

// hostPort joins ip and the port of the address samePort.
func hostPort(ip string, samePort string) string {
	_, port, err := net.SplitHostPort(samePort)
	if err != nil {
		panic(err)
	}
	return net.JoinHostPort(ip, port)
}

// client connects a client to the relay. done is closed at the end of its relay,
// for which the end of the test waits.
func (r *rig) client() (conn *net.TCPConn, done <-chan struct{}) {
	r.t.Helper()
	near, far := relaytest.TCPPair(r.t)
	return near, r.serve(context.Background(), plainClient(far))
}

// plainClient returns a client without a wrapper around its socket.
func plainClient(conn *net.TCPConn) stream.Client {
	return stream.Client{
		Conn: conn, CloseWriter: conn, Socket: conn,
		Detacher: detached{conn},
	}
}

// detached is a client whose connection the relay closes.
type detached struct{ conn *net.TCPConn }

func (d detached) Detach() (fd int, err error) { return netio.Detach(d.conn) }

// serve calls ServeTCP for a client. done is closed at the end of the relay.
func (r *rig) serve(ctx context.Context, c stream.Client) (done <-chan struct{}) {
	r.t.Helper()
	ended := make(chan struct{})
	client, local := c.Conn.RemoteAddr().String(), c.Conn.LocalAddr().String()
	go func() {
		defer close(ended)
		r.relay.ServeTCP(ctx, c)
		for r.relayOf(client, local) != nil { // on an event loop
			time.Sleep(time.Millisecond)
		}
	}()
	r.t.Cleanup(func() { // a search ends when its client's socket is closed
		if c.Socket != nil {
			c.Socket.Close()
		} else {
			c.Conn.Close()
		}
		if relay := r.relayOf(client, local); relay != nil { // on an event loop, with a socket that was detached
			relay.cut(stream.ClientReset)
		}
		relaytest.Receive(r.t, "the end of a relay", ended)
	})
	return ended
}

// relayOf returns the active relay of a client, or nil. Clients of two listeners
// may have the same address.
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

// ending reads to the end of a stream and returns how it ended: "FIN", "RST",
// "timeout" or the text of another error.
func ending(conn net.Conn) string {
	_ = conn.SetReadDeadline(time.Now().Add(relaytest.Limit))
	_, err := io.Copy(io.Discard, conn)
	switch {
	case err == nil:
		return "FIN"
	case errors.Is(err, syscall.ECONNRESET):
		return "RST"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	default:
		return err.Error()
	}
}

// wantEnding reads to the end of a stream and checks how it ended.
func wantEnding(t testing.TB, who string, conn net.Conn, want string) {
	t.Helper()
	if got := ending(conn); got != want {
		t.Errorf("%s saw %s, want %s", who, got, want)
	}
}
