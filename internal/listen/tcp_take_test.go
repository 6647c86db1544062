package listen

import (
	"errors"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// TakeTCP receives the clients instead of Accept if the latest listener has it.
func TestTakeTCP(t *testing.T) { overWatchers(t, testTakeTCP) }

func testTakeTCP(t *testing.T, s *Sockets) {
	at := freeAddr(t, "127.0.0.1")
	taken := make(chan net.Conn, 1)
	opts := quiet()
	opts.TakeTCP = func(conn net.Conn) bool { taken <- conn; return true }
	taking, err := s.TCP(at, opts)
	relaytest.Check(t, err)
	peer := dial(t, "tcp", at.String())
	conn := relaytest.Receive(t, "a client", taken)
	if conn.RemoteAddr().String() != peer.LocalAddr().String() {
		t.Errorf("took %v, not %v", conn.RemoteAddr(), peer.LocalAddr())
	}
	conn.Close()

	accepting := openTCP(t, s, at)
	dial(t, "tcp", at.String())
	accepted[net.Conn](t, accepting).Close()
	relaytest.Check(t, accepting.Close())
	dial(t, "tcp", at.String())
	relaytest.Receive(t, "a client", taken).Close()
	relaytest.Check(t, taking.Close())
}

// A listener may decline a client: its relay was cleaned up while the client was on
// its way. The next listener gets the client then, also one that was opened
// meanwhile. A client that no listener takes is reset.
func TestTakeTCPDeclines(t *testing.T) { overWatchers(t, testTakeTCPDeclines) }

func testTakeTCPDeclines(t *testing.T, s *Sockets) {
	at := freeAddr(t, "127.0.0.1")
	arrived, proceed := make(chan struct{}), make(chan struct{})
	opts := quiet()
	opts.TakeTCP = func(net.Conn) bool { arrived <- struct{}{}; <-proceed; return false }
	old, err := s.TCP(at, opts)
	relaytest.Check(t, err)
	peer := dial(t, "tcp", at.String())
	relaytest.Receive(t, "a client", arrived)
	taken := make(chan net.Conn, 1)
	opts = quiet()
	opts.TakeTCP = func(conn net.Conn) bool { taken <- conn; return true }
	current, err := s.TCP(at, opts)
	relaytest.Check(t, err)
	relaytest.Check(t, old.Close())
	close(proceed)
	conn := relaytest.Receive(t, "the client", taken)
	if conn.RemoteAddr().String() != peer.LocalAddr().String() {
		t.Errorf("took %v, not %v", conn.RemoteAddr(), peer.LocalAddr())
	}
	conn.Close()

	// The latest config may be the one that is rejected.
	opts.TakeTCP = func(net.Conn) bool { return false }
	rejected, err := s.TCP(at, opts)
	relaytest.Check(t, err)
	dial(t, "tcp", at.String())
	relaytest.Receive(t, "the client", taken).Close()
	relaytest.Check(t, current.Close())
	refused, err := net.Dial("tcp", at.String())
	if err == nil { // otherwise the reset came before connect returned
		defer refused.Close()
		relaytest.Check(t, refused.SetReadDeadline(time.Now().Add(relaytest.Limit)))
		_, err = refused.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a client that no listener takes got %v", err)
	}
	relaytest.Check(t, rejected.Close())
}

// If one TakeTCP is slow, helpers take the other clients in parallel, as long as a
// CPU is free.
func TestTakeTCPHelpers(t *testing.T) {
	relaytest.NoLeaks(t)
	if !acceptsDescriptors(t) || runtime.GOMAXPROCS(0) < 2 {
		t.Skip("only one goroutine accepts clients")
	}
	s, at := NewSockets(), freeAddr(t, "127.0.0.1")
	const clients = 4 * helperThreshold
	var all sync.WaitGroup
	all.Add(clients)
	blocked, release := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	taken, busy, most := 0, 0, 0
	parallel := make(chan struct{}) // closed when two clients are taken in parallel
	closeParallel := sync.OnceFunc(func() { close(parallel) })
	opts := quiet()
	opts.TakeTCP = func(conn net.Conn) bool {
		defer all.Done()
		defer conn.Close()
		mu.Lock()
		taken++
		number := taken
		busy++
		most = max(most, busy)
		if busy == 2 {
			closeParallel()
		}
		mu.Unlock()
		switch {
		case number == 1: // the others connect meanwhile
			close(blocked)
			<-release
		case number > 2*helperThreshold: // the helper was started before
			select {
			case <-parallel:
			case <-time.After(relaytest.Limit):
			}
		}
		mu.Lock()
		busy--
		mu.Unlock()
		return true
	}
	l, err := s.TCP(at, opts)
	relaytest.Check(t, err)
	dial(t, "tcp", at.String())
	relaytest.Receive(t, "the first client", blocked)
	for range clients - 1 {
		dial(t, "tcp", at.String())
	}
	close(release)
	all.Wait()
	if most < 2 {
		t.Errorf("%d clients, at most %d taken in parallel", clients, most)
	}
	if most > runtime.GOMAXPROCS(0) {
		t.Errorf("%d clients taken in parallel", most)
	}
	relaytest.Check(t, l.Close())
}

// acceptsDescriptors reports whether clients are accepted as bare descriptors.
func acceptsDescriptors(t *testing.T) bool {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	relaytest.Check(t, err)
	a := newAcceptor(ln)
	relaytest.Check(t, a.Close())
	_, isNet := a.(netAcceptor)
	return !isNet
}
