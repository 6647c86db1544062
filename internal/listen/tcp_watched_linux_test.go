package listen

import (
	"fmt"
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

// takes returns Options that pass clients on to a channel.
func takes(opts Options) (Options, chan net.Conn) {
	taken := make(chan net.Conn, 1000)
	opts.TakeTCP = func(conn net.Conn) bool { taken <- conn; return true }
	return opts, taken
}

func openTCPWith(t testing.TB, s *Sockets, at netip.AddrPort, opts Options) *TCPListener {
	t.Helper()
	l, err := s.TCP(at, opts)
	relaytest.Check(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// onlyWatched reports whether the socket is watched, has no goroutine and none accepts
// clients.
func (t *tcpSocket) onlyWatched() bool {
	t.watched.mu.Lock()
	watched := t.watched.stop != nil && t.watched.readers == 0
	t.watched.mu.Unlock()
	return watched && t.gate.stopped() && t.helpers.Load() == 0
}

func wantOnlyWatched(t testing.TB, l *TCPListener) {
	t.Helper()
	relaytest.Eventually(t, "the socket to be watched only", l.socket.onlyWatched)
}

func wantTaken(t testing.TB, taken <-chan net.Conn, near net.Conn) net.Conn {
	t.Helper()
	conn := relaytest.Receive(t, "a client", taken)
	t.Cleanup(func() { conn.Close() })
	if conn.RemoteAddr().String() != near.LocalAddr().String() {
		t.Fatalf("took %v, not %v", conn.RemoteAddr(), near.LocalAddr())
	}
	return conn
}

// The Watcher accepts the clients, each once, also on several goroutines at once. The
// socket has no goroutine meanwhile. After the last close, its address is free.
func TestTCPWatched(t *testing.T) {
	for _, host := range []string{"127.0.0.1", ""} {
		for _, parallel := range []int{1, 4} {
			t.Run(fmt.Sprintf("at=%s/parallel=%d", host, parallel), func(t *testing.T) {
				if !acceptsDescriptors(t) {
					t.Skip("sockets of package net are not watched")
				}
				relaytest.NoLeaks(t)
				before := relaytest.OpenDescriptors(t)
				s, w := newWatched()
				w.parallel = parallel
				at := freeAddr(t, host)
				for range 3 {
					opts, taken := takes(quiet())
					take := opts.TakeTCP
					var elsewhere atomic.Bool
					opts.TakeTCP = func(conn net.Conn) bool {
						stack := make([]byte, 4096)
						if !strings.Contains(string(stack[:runtime.Stack(stack, false)]), "tcpSocket).readable") {
							elsewhere.Store(true)
						}
						return take(conn)
					}
					l, err := s.TCP(at, opts)
					relaytest.Check(t, err)
					wantOnlyWatched(t, l)
					const clients = 30
					near := make(map[string]net.Conn)
					for range clients {
						conn, err := net.Dial("tcp", to("127.0.0.1", at))
						relaytest.Check(t, err)
						near[conn.LocalAddr().String()] = conn
					}
					for range clients {
						conn := relaytest.Receive(t, "a client", taken)
						peer := near[conn.RemoteAddr().String()]
						if peer == nil {
							t.Fatalf("took %v twice", conn.RemoteAddr())
						}
						delete(near, conn.RemoteAddr().String())
						send(t, conn, "hello")
						wantRead(t, peer, "hello")
						relaytest.Check(t, peer.Close())
						relaytest.Check(t, conn.Close())
					}
					if elsewhere.Load() {
						t.Error("a client was not taken by the Watcher")
					}
					wantOnlyWatched(t, l)
					relaytest.Check(t, l.Close())
					wantNoSockets(t, s)
					free, err := net.Listen("tcp", at.String())
					relaytest.Check(t, err)
					relaytest.Check(t, free.Close())
				}
				relaytest.Eventually(t, "all descriptors to be closed", func() bool { return relaytest.OpenDescriptors(t) <= before })
			})
		}
	}
}

// While the latest config calls Accept, a goroutine accepts its clients. After that, the
// socket is watched again.
func TestTCPWatchedAccept(t *testing.T) {
	if !acceptsDescriptors(t) {
		t.Skip("sockets of package net are not watched")
	}
	relaytest.NoLeaks(t)
	s, _ := newWatched()
	at := freeAddr(t, "127.0.0.1")
	opts, taken := takes(quiet())
	for _, firstTakes := range []bool{true, false} {
		var taking, accepting *TCPListener
		open := func() { accepting = openTCP(t, s, at) }
		if firstTakes {
			taking = openTCPWith(t, s, at, opts)
			wantTaken(t, taken, dial(t, "tcp", at.String()))
			open()
		} else {
			open()
			dial(t, "tcp", at.String())
			accepted[net.Conn](t, accepting)
			taking = openTCPWith(t, s, at, opts)
			wantTaken(t, taken, dial(t, "tcp", at.String()))
			wantOnlyWatched(t, taking)
			old := accepting
			open()
			relaytest.Check(t, old.Close())
		}
		for range 20 {
			near := dial(t, "tcp", at.String())
			send(t, near, "hello")
			wantRead(t, accepted[net.Conn](t, accepting), "hello")
		}
		if accepting.socket.gate.stopped() {
			t.Error("no goroutine accepts the clients")
		}
		// A client that waits for Accept goes to the listener that is the latest then.
		waiting := dial(t, "tcp", at.String())
		relaytest.Check(t, accepting.Close())
		wantTaken(t, taken, waiting)
		wantTaken(t, taken, dial(t, "tcp", at.String()))
		wantOnlyWatched(t, taking)
		relaytest.Check(t, taking.Close())
	}
}

// A listener without TakeTCP may become the latest while another declines a client.
func TestTCPWatchedDeclines(t *testing.T) {
	if !acceptsDescriptors(t) {
		t.Skip("sockets of package net are not watched")
	}
	relaytest.NoLeaks(t)
	s, _ := newWatched()
	at := freeAddr(t, "127.0.0.1")
	accepting := openTCP(t, s, at)
	opts := quiet()
	var declined atomic.Int32
	opts.TakeTCP = func(net.Conn) bool { declined.Add(1); return false }
	declining := openTCPWith(t, s, at, opts)
	for range 10 {
		near := dial(t, "tcp", at.String())
		send(t, near, "hello")
		wantRead(t, accepted[net.Conn](t, accepting), "hello")
	}
	if declined.Load() < 10 {
		t.Errorf("%d of 10 clients were declined", declined.Load())
	}
	wantOnlyWatched(t, declining)
}

// If the socket cannot be watched, its goroutine accepts the clients, and tries again
// after the next one.
func TestTCPWatchFails(t *testing.T) {
	if !acceptsDescriptors(t) {
		t.Skip("sockets of package net are not watched")
	}
	relaytest.NoLeaks(t)
	s, w := newWatched()
	w.fail(syscall.EMFILE, syscall.ENOMEM)
	at := freeAddr(t, "127.0.0.1")
	opts, logs := observed()
	opts, taken := takes(opts)
	l := openTCPWith(t, s, at, opts)
	for range 3 {
		wantTaken(t, taken, dial(t, "tcp", at.String()))
	}
	wantOnlyWatched(t, l)
	if logs.Len() > 0 {
		t.Errorf("logged %v", logs.All())
	}
}

// If clients come faster than the Watcher passes them on, helpers accept some, and they
// end when no client is queued.
func TestTCPWatchedHelpers(t *testing.T) {
	if !acceptsDescriptors(t) || runtime.GOMAXPROCS(0) < 2 {
		t.Skip("only one goroutine accepts clients")
	}
	relaytest.NoLeaks(t)
	s, _ := newWatched()
	at := freeAddr(t, "127.0.0.1")
	arrived, proceed := make(chan struct{}, 1), make(chan struct{})
	helped := make(chan struct{}) // closed when a helper has taken a client
	closeHelped := sync.OnceFunc(func() { close(helped) })
	const clients = 2 * acceptsPerCall * fullCalls
	var taken atomic.Int32
	opts := quiet()
	opts.TakeTCP = func(conn net.Conn) bool {
		defer taken.Add(1)
		conn.Close()
		stack := make([]byte, 4096)
		if !strings.Contains(string(stack[:runtime.Stack(stack, false)]), "tcpSocket).readable") {
			closeHelped()
		}
		switch n := taken.Load(); {
		case n == 0: // the other clients connect meanwhile
			arrived <- struct{}{}
			<-proceed
		case n > acceptsPerCall*fullCalls: // the helper was started before
			select {
			case <-helped:
			case <-time.After(relaytest.Limit):
			}
		}
		return true
	}
	l := openTCPWith(t, s, at, opts)
	wantOnlyWatched(t, l)
	dial(t, "tcp", at.String())
	relaytest.Receive(t, "the first client", arrived)
	for range clients {
		dial(t, "tcp", at.String())
	}
	close(proceed)
	relaytest.Receive(t, "a helper", helped)
	relaytest.Eventually(t, "all clients to be taken", func() bool { return taken.Load() == clients+1 })
	wantOnlyWatched(t, l)
}
