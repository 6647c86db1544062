package listen

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// While a watched socket is suspended, its clients wait in the kernel's queue.
func TestTCPWatchedSuspend(t *testing.T) {
	if !acceptsDescriptors(t) {
		t.Skip("sockets of package net are not watched")
	}
	relaytest.NoLeaks(t)
	s, _ := newWatched()
	at := freeAddr(t, "127.0.0.1")
	opts, taken := takes(quiet())
	l := openTCPWith(t, s, at, opts)
	for range 100 {
		relaytest.Check(t, s.Suspend(context.Background()))
		near := dial(t, "tcp", at.String())
		l.socket.readable() // a call of the Watcher that may follow
		if len(taken) != 0 {
			t.Fatal("a client of a suspended socket was taken")
		}
		s.Resume()
		l.socket.start() // does nothing
		wantTaken(t, taken, near)
	}
	wantOnlyWatched(t, l)
	relaytest.Check(t, s.Suspend(context.Background()))
	relaytest.Check(t, l.Close())
	wantNoSockets(t, s)
}

// Another process takes the socket, and no client is lost.
func TestTCPWatchedHandover(t *testing.T) {
	if !acceptsDescriptors(t) {
		t.Skip("sockets of package net are not watched")
	}
	relaytest.NoLeaks(t)
	at := freeAddr(t, "127.0.0.1")
	current, _ := newWatched()
	opts, taken := takes(quiet())
	l := openTCPWith(t, current, at, opts)
	for range 10 {
		wantTaken(t, taken, dial(t, "tcp", at.String()))
		shared, err := current.Shared()
		relaytest.Check(t, err)
		next, _ := newWatched()
		next.Expect(shared...)
		opts, nextTaken := takes(quiet())
		nextListener := openTCPWith(t, next, at, opts)
		near := dial(t, "tcp", at.String())
		wantTaken(t, taken, near) // the next one has not begun
		if !nextListener.socket.stopped() {
			t.Error("a socket of another process is accepted from")
		}
		relaytest.Check(t, current.Suspend(context.Background()))
		near = dial(t, "tcp", at.String())
		next.Begin()
		wantTaken(t, nextTaken, near)
		current.HandedOver()
		relaytest.Check(t, l.Close())
		wantNoSockets(t, current)
		current, l, taken = next, nextListener, nextTaken
	}
}

// The last Close waits until no client is being taken.
func TestTCPWatchedCloseWaits(t *testing.T) {
	if !acceptsDescriptors(t) {
		t.Skip("sockets of package net are not watched")
	}
	relaytest.NoLeaks(t)
	s, _ := newWatched()
	at := freeAddr(t, "127.0.0.1")
	arrived, proceed := make(chan struct{}), make(chan struct{})
	opts := quiet()
	opts.TakeTCP = func(conn net.Conn) bool { arrived <- struct{}{}; <-proceed; conn.Close(); return true }
	l := openTCPWith(t, s, at, opts)
	wantOnlyWatched(t, l)
	dial(t, "tcp", at.String())
	relaytest.Receive(t, "a client", arrived)
	closed := make(chan error, 1)
	go func() { closed <- l.Close() }()
	relaytest.Receive(t, "the socket to be closing", l.socket.closed)
	relaytest.Eventually(t, "Close to wait", func() bool {
		for _, stack := range relaytest.GoroutineStacks() {
			if strings.Contains(stack, "awaitStopped") && strings.Contains(stack, "sync.(*Cond).Wait") {
				return true
			}
		}
		return len(closed) > 0
	})
	if len(closed) > 0 {
		t.Error("the socket was closed while a client was being taken")
	}
	close(proceed)
	relaytest.Check(t, relaytest.Receive(t, "Close", closed))
	wantNoSockets(t, s)
	free, err := net.Listen("tcp", at.String())
	relaytest.Check(t, err)
	relaytest.Check(t, free.Close())
}

// All clients are served while listeners, with and without TakeTCP, open and close, and
// while the sockets are suspended and resumed.
func TestTCPWatchedReloads(t *testing.T) {
	if !acceptsDescriptors(t) {
		t.Skip("sockets of package net are not watched")
	}
	for _, parallel := range []int{1, 4} {
		t.Run(fmt.Sprintf("parallel=%d", parallel), func(t *testing.T) {
			relaytest.NoLeaks(t)
			s, w := newWatched()
			w.parallel = parallel
			at := freeAddr(t, "127.0.0.1")
			var servers sync.WaitGroup
			serve := func(conn net.Conn) {
				servers.Go(func() {
					_, _ = io.Copy(conn, conn)
					conn.Close()
				})
			}
			open := func(i int) *TCPListener {
				opts := quiet()
				if i%3 != 0 {
					opts.TakeTCP = func(conn net.Conn) bool { serve(conn); return true }
				}
				l, err := s.TCP(at, opts)
				relaytest.Check(t, err)
				if i%3 == 0 {
					servers.Go(func() {
						for {
							conn, err := l.Accept()
							if err != nil {
								return
							}
							serve(conn)
						}
					})
				}
				return l
			}
			declines := quiet()
			declines.TakeTCP = func(net.Conn) bool { return false }
			current := open(0)
			var stop atomic.Bool
			var served atomic.Int64
			var clients sync.WaitGroup
			for range 4 {
				clients.Go(func() {
					for i := 0; !stop.Load(); i++ {
						if err := echo(at, fmt.Sprint(i)); err != nil {
							t.Error(err)
							return
						}
						served.Add(1)
					}
				})
			}
			for i := 1; i <= 300 && !t.Failed(); i++ {
				next := open(i)
				if i%10 == 0 {
					relaytest.Check(t, openTCPWith(t, s, at, declines).Close())
				}
				if i%7 == 0 {
					relaytest.Check(t, s.Suspend(t.Context()))
					s.Resume()
				}
				if i%2 == 0 {
					before := served.Load()
					relaytest.Eventually(t, "a client to be served", func() bool { return served.Load() > before || t.Failed() })
				}
				relaytest.Check(t, current.Close())
				current = next
			}
			stop.Store(true)
			clients.Wait()
			relaytest.Check(t, current.Close())
			servers.Wait()
			wantNoSockets(t, s)
			if n := w.nowUsual.Load(); n != 0 {
				t.Errorf("%d sockets are still watched", n)
			}
			t.Logf("%d clients served", served.Load())
		})
	}
}
