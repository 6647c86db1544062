package listen

import (
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

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
			if netio.Reserved(int(conn.(*TCPConn).fd)) {
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
