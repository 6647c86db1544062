package listen

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
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

// tcpDescriptors returns descriptors of TCP sockets that are not connected.
func tcpDescriptors(t *testing.T, n int) (fds []int) {
	t.Helper()
	for range n {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
		relaytest.Check(t, err)
		t.Cleanup(func() { _ = syscall.Close(fd) })
		fds = append(fds, fd)
	}
	return fds
}

func connect(t *testing.T, fd int, at netip.AddrPort) {
	t.Helper()
	relaytest.Check(t, syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}))
}

// When accepting fails, the goroutine of the socket waits, logs that once, and gives the
// socket back to the Watcher after the last client that was queued. That this repeats
// soon is not logged again.
func TestTCPWatchedFails(t *testing.T) {
	if !relaytest.InChild(t, "RELAY_DISABLE=") {
		return
	}
	relaytest.NoLeaks(t)
	s, _ := newWatched()
	var free atomic.Pointer[func()]
	s.FreeDescriptor = func() bool {
		restore := free.Swap(nil)
		if restore != nil {
			(*restore)()
		}
		return restore != nil
	}
	openUDP(t, s, freeAddr(t, "127.0.0.1")) // keeps the Watcher running
	at := freeAddr(t, "127.0.0.1")
	opts, logs := observed()
	opts, taken := takes(opts)
	l := openTCPWith(t, s, at, opts)
	wantTaken(t, taken, dial(t, "tcp", at.String()))
	wantOnlyWatched(t, l)
	const failed, recovered = "accept failed, retrying", "accepting clients again"
	for range 3 {
		clients := tcpDescriptors(t, 10)
		restore := relaytest.LimitDescriptors(t, 3)
		for _, fd := range clients {
			connect(t, fd, at)
		}
		relaytest.Eventually(t, "the goroutine to wait", func() bool { return !l.socket.onlyWatched() && !l.socket.gate.stopped() })
		relaytest.Eventually(t, "the log line", func() bool { return logs.FilterMessage(failed).Len() > 0 })
		restore()
		for range clients {
			defer relaytest.Receive(t, "a client", taken).Close()
		}
		wantOnlyWatched(t, l)
	}
	if f, r := logs.FilterMessage(failed).Len(), logs.FilterMessage(recovered).Len(); f != 1 || r != 1 {
		t.Errorf("%d failures and %d recoveries logged: %v", f, r, logs.All())
	}
	// A descriptor is freed for a client, if that is possible.
	clients := tcpDescriptors(t, 2)
	restore := relaytest.LimitDescriptors(t, 3)
	free.Store(&restore)
	connect(t, clients[0], at)
	defer relaytest.Receive(t, "a client", taken).Close()
	if free.Load() != nil {
		t.Error("no descriptor was freed")
	}
	wantOnlyWatched(t, l)
	// Close does not hang while descriptors are exhausted.
	restore = relaytest.LimitDescriptors(t, 3)
	connect(t, clients[1], at)
	relaytest.Check(t, l.Close())
	restore()
}

// A client with a descriptor of the reserve waits on the goroutine of its socket, and so
// do the clients of other sockets. Then the sockets are watched again.
func TestTCPWatchedReserve(t *testing.T) {
	if !relaytest.InChild(t, "RELAY_DISABLE=") {
		return
	}
	relaytest.LimitDescriptors(t, 128) // first of all, because the reserve depends on it
	relaytest.NoLeaks(t)
	s, w := newWatched()
	w.parallel = 2
	openUDP(t, s, freeAddr(t, "127.0.0.1")) // keeps the Watcher running
	opts, logs := observed()
	opts, taken := takes(opts)
	var listeners []*TCPListener
	for range 2 {
		l := openTCPWith(t, s, freeAddr(t, "127.0.0.1"), opts)
		dial(t, "tcp", l.socket.at.String()).Close() // opens what a first client needs
		relaytest.Receive(t, "a client", taken).Close()
		wantOnlyWatched(t, l)
		listeners = append(listeners, l)
	}
	for range 3 {
		const clients = 4 // of each socket
		all := tcpDescriptors(t, clients*len(listeners))
		var held []*os.File
		for netio.HasDescriptor() {
			file, err := os.Open(os.DevNull)
			relaytest.Check(t, err)
			held = append(held, file)
		}
		for i, fd := range all {
			connect(t, fd, listeners[i%len(listeners)].socket.at)
		}
		for _, l := range listeners {
			relaytest.Eventually(t, "the goroutine to wait", func() bool { return s.crowded.Load() > 0 && !l.socket.stopped() && !l.socket.onlyWatched() })
		}
		if len(taken) > 0 {
			t.Errorf("%d clients were taken without a descriptor", len(taken))
		}
		for _, file := range held {
			relaytest.Check(t, file.Close())
		}
		for range all {
			conn := relaytest.Receive(t, "a client", taken)
			if netio.Reserved(conn.(*TCPConn).fd) {
				t.Error("a client has a reserved descriptor")
			}
			conn.Close()
		}
		for _, l := range listeners {
			wantOnlyWatched(t, l)
		}
		for _, fd := range all {
			relaytest.Check(t, syscall.Close(fd))
		}
	}
	const failed, recovered = "accept failed, retrying", "accepting clients again"
	if f, r := logs.FilterMessage(failed).Len(), logs.FilterMessage(recovered).Len(); f > len(listeners) || f != r {
		t.Errorf("%d failures and %d recoveries logged: %v", f, r, logs.All())
	}
}

// A client whose descriptor is in the reserve is reset if its socket is closed, and is
// not forgotten while the socket is suspended.
func TestTCPWatchedReserveEnds(t *testing.T) {
	if !relaytest.InChild(t, "RELAY_DISABLE=") {
		return
	}
	relaytest.LimitDescriptors(t, 128) // first of all, because the reserve depends on it
	relaytest.NoLeaks(t)
	s, _ := newWatched()
	openUDP(t, s, freeAddr(t, "127.0.0.1")) // keeps the Watcher running
	opts, taken := takes(quiet())
	l := openTCPWith(t, s, freeAddr(t, "127.0.0.1"), opts)
	dial(t, "tcp", l.socket.at.String()).Close() // opens what a first client needs
	relaytest.Receive(t, "a client", taken).Close()
	clients := tcpDescriptors(t, 2)
	var held []*os.File
	for netio.HasDescriptor() {
		file, err := os.Open(os.DevNull)
		relaytest.Check(t, err)
		held = append(held, file)
	}
	connect(t, clients[0], l.socket.at)
	relaytest.Eventually(t, "the client to wait", func() bool { return s.crowded.Load() > 0 })
	l.socket.suspend()
	if l.socket.stopped() {
		t.Error("the socket has stopped while it has a client")
	}
	last := held[len(held)-1]
	held = held[:len(held)-1]
	relaytest.Check(t, last.Close())
	relaytest.Eventually(t, "the socket to stop", l.socket.stopped)
	first := relaytest.Receive(t, "the client", taken) // has the last descriptor
	l.socket.start()
	connect(t, clients[1], l.socket.at)
	relaytest.Eventually(t, "the client to wait", func() bool { return s.crowded.Load() > 0 })
	relaytest.Check(t, l.Close())
	if n, err := syscall.Read(clients[1], make([]byte, 1)); err != syscall.ECONNRESET {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if got := s.crowded.Load(); got != 0 {
		t.Errorf("%d clients are said to wait", got)
	}
	relaytest.Check(t, first.Close())
	for _, file := range held {
		relaytest.Check(t, file.Close())
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

// When the clients of many sockets come at once and no descriptor is left, one of them
// takes a descriptor of the reserve, not one of each socket.
func TestTCPWatchedReserveOfManySockets(t *testing.T) {
	if !relaytest.InChild(t, "RELAY_DISABLE=") {
		return
	}
	relaytest.LimitDescriptors(t, 128) // first of all, because the reserve depends on it
	relaytest.NoLeaks(t)
	s, _ := newWatched()
	opts, taken := takes(quiet())
	blocked, release := make(chan struct{}), make(chan struct{})
	opts.TakeUDP = func(c *Conn) Sink {
		return func([][]byte) bool { blocked <- struct{}{}; <-release; c.End(); return true }
	}
	blocker, err := s.UDP(freeAddr(t, "127.0.0.1"), opts)
	relaytest.Check(t, err)
	defer blocker.Close()
	var listeners []*TCPListener
	for range 8 {
		l := openTCPWith(t, s, freeAddr(t, "127.0.0.1"), opts)
		dial(t, "tcp", l.socket.at.String()).Close() // opens what a first client needs
		relaytest.Receive(t, "a client", taken).Close()
		wantOnlyWatched(t, l)
		listeners = append(listeners, l)
	}
	clients := tcpDescriptors(t, len(listeners))
	near := dial(t, "udp", blocker.socket.at.String())
	var held []*os.File
	for netio.HasDescriptor() {
		file, err := os.Open(os.DevNull)
		relaytest.Check(t, err)
		held = append(held, file)
	}
	before := relaytest.OpenDescriptors(t)
	send(t, near, "x")
	relaytest.Receive(t, "the event loop to be blocked", blocked)
	for i, fd := range clients {
		connect(t, fd, listeners[i].socket.at)
	}
	close(release) // the events of all sockets are reported in the next turn
	for _, l := range listeners {
		relaytest.Eventually(t, "the goroutine to wait", func() bool { return !l.socket.gate.stopped() || l.socket.helpers.Load() > 0 })
	}
	relaytest.Eventually(t, "one client at most to have a descriptor", func() bool { return relaytest.OpenDescriptors(t) <= before+1 })
	for _, file := range held {
		relaytest.Check(t, file.Close())
	}
	for range clients {
		relaytest.Receive(t, "a client", taken).Close()
	}
	for _, l := range listeners {
		wantOnlyWatched(t, l)
	}
}
