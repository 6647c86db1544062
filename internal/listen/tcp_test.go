package listen

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// New clients go to the latest open listener.
func TestTCPLatest(t *testing.T) {
	relaytest.NoLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	first, second := openTCP(t, s, at), openTCP(t, s, at)
	wantServed := func(l net.Listener) {
		t.Helper()
		near := dial(t, "tcp", at.String())
		far := accepted[net.Conn](t, l)
		send(t, near, "hello")
		wantRead(t, far, "hello")
	}
	wantServed(second)
	third := openTCP(t, s, at)
	wantServed(third)
	relaytest.Check(t, third.Close())
	wantServed(second)
	relaytest.Check(t, first.Close()) // not the latest
	wantServed(second)
	relaytest.Check(t, second.Close())
	relaytest.Check(t, second.Close())
	for _, l := range []net.Listener{first, second, third} {
		_, err := l.Accept()
		wantClosed(t, err)
		if l.Addr().String() != at.String() {
			t.Errorf("Addr is %v", l.Addr())
		}
	}
	wantNoSockets(t, s)
}

// A client that a listener has not accepted before it closes goes to the listener
// that is the latest then.
func TestTCPClosePassesClient(t *testing.T) {
	relaytest.NoLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	first, second := openTCP(t, s, at), openTCP(t, s, at)
	near := dial(t, "tcp", at.String())
	send(t, near, "hello")
	relaytest.Eventually(t, "the socket to offer the client", func() bool {
		buf := make([]byte, 1<<20)
		for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(stack, "[select") && strings.Contains(stack, "tcpSocket).pass") {
				return true
			}
		}
		return false
	})
	relaytest.Check(t, second.Close())
	wantRead(t, accepted[net.Conn](t, first), "hello")
}

// The last Close closes the socket before it returns.
func TestTCPLastClose(t *testing.T) {
	relaytest.NoLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	for range 50 {
		first, second := openTCP(t, s, at), openTCP(t, s, at)
		relaytest.Check(t, first.Close())
		relaytest.Check(t, second.Close())
		if conn, err := net.Dial("tcp", at.String()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("got %v, %v, want a refusal", conn, err)
		}
		wantNoSockets(t, s)
		other, err := net.Listen("tcp", at.String())
		relaytest.Check(t, err)
		relaytest.Check(t, other.Close())
	}
}

// All clients are served while listeners open and close.
func TestTCPNoClientRefused(t *testing.T) {
	relaytest.NoLeaks(t)
	s := NewSockets()
	at := freeAddr(t, "127.0.0.1")
	var servers sync.WaitGroup
	serve := func(l net.Listener) {
		servers.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				servers.Go(func() {
					_, _ = io.Copy(conn, conn)
					conn.Close()
				})
			}
		})
	}
	current := openTCP(t, s, at)
	serve(current)

	var (
		stop    atomic.Bool
		served  atomic.Int64
		workers sync.WaitGroup
	)
	for range 4 {
		workers.Go(func() {
			for i := 0; !stop.Load(); i++ {
				if err := echo(at, fmt.Sprint(i)); err != nil {
					t.Error(err)
					return
				}
				served.Add(1)
			}
		})
	}
	for i := range 200 {
		if i%10 == 0 { // a config that is rejected before it accepts a client
			openTCP(t, s, at).Close()
		}
		next := openTCP(t, s, at)
		serve(next)
		before := served.Load()
		relaytest.Eventually(t, "a client to be served", func() bool { return served.Load() > before || t.Failed() })
		relaytest.Check(t, current.Close())
		current = next
	}
	stop.Store(true)
	workers.Wait()
	relaytest.Check(t, current.Close())
	servers.Wait()
	t.Logf("%d clients served", served.Load())
}

// echo connects, sends text and checks that it comes back.
func echo(at netip.AddrPort, text string) error {
	conn, err := net.DialTimeout("tcp", at.String(), relaytest.Limit)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(relaytest.Limit))
	if _, err := conn.Write([]byte(text)); err != nil {
		return err
	}
	buf := make([]byte, len(text))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return err
	}
	if string(buf) != text {
		return fmt.Errorf("sent %q, got %q", text, buf)
	}
	return nil
}

// Suspending and resuming a socket is not a failure of it.
func TestTCPSuspendLogsNothing(t *testing.T) {
	overWatchers(t, func(t *testing.T, s *Sockets) {
		opts, logs := observed()
		at := freeAddr(t, "127.0.0.1")
		l, err := s.TCP(at, opts)
		relaytest.Check(t, err)
		for range 20 {
			dial(t, "tcp", at.String())
			accepted[net.Conn](t, l)
			relaytest.Check(t, s.Suspend(t.Context()))
			s.Resume()
		}
		relaytest.Check(t, l.Close())
		if logs.Len() > 0 {
			t.Errorf("logged %v", logs.All())
		}
	})
}
