package listen

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A socket is watched if there is a Watcher. Its clients are served as those of a socket
// with a goroutine, also by later configs, and its address is free once it has closed.
func TestWatchedSockets(t *testing.T) {
	for _, host := range []string{"127.0.0.1", ""} {
		t.Run("at="+host, func(t *testing.T) {
			relaytest.NoLeaks(t)
			s, _ := newWatched()
			at := freeAddr(t, host)
			for range 3 {
				first := openUDP(t, s, at)
				if !first.socket.detached.is() {
					t.Fatal("the socket is not watched")
				}
				near, far, taken := client(t, first, to("127.0.0.1", at))
				second := openUDP(t, s, at)
				if second.socket != first.socket {
					t.Fatal("the socket was bound twice")
				}
				relaytest.Check(t, first.Close())
				for i := range 200 {
					send(t, near, strconv.Itoa(i))
				}
				for i := range 200 {
					want(t, taken, strconv.Itoa(i))
				}
				relaytest.Check(t, far.Reply([][]byte{[]byte("one"), []byte("two")}))
				wantRead(t, near, "one")
				wantRead(t, near, "two")
				if far.Local().Addr().String() != "127.0.0.1" {
					t.Errorf("the client sent to %v", far.Local())
				}
				relaytest.Check(t, second.Close())
				far.End()
				if err := far.Reply([][]byte{[]byte("late")}); !errors.Is(err, net.ErrClosed) {
					t.Errorf("reply on a closed socket: %v", err)
				}
			}
		})
	}
}

// A client that ends on the goroutine of the Watcher, as the last user, closes the
// socket.
func TestWatchedSocketClosedByItsReader(t *testing.T) {
	relaytest.NoLeaks(t)
	s, _ := newWatched()
	at := freeAddr(t, "127.0.0.1")
	l := openUDP(t, s, at)
	near := dial(t, "udp", at.String())
	send(t, near, "begin")
	far := accepted[*Conn](t, l)
	far.Take(0, func(datagrams [][]byte) bool {
		if string(datagrams[0]) == "end" {
			far.End()
		}
		return true
	})
	relaytest.Check(t, l.Close())
	send(t, near, "end")
	relaytest.Receive(t, "the socket to be closed", l.socket.released)
	openUDP(t, s, at)
}

// If the socket cannot be watched, that is tried again after a pause.
func TestWatchFails(t *testing.T) {
	relaytest.NoLeaks(t)
	s, w := newWatched()
	at := freeAddr(t, "127.0.0.1")
	w.fail(syscall.ENOMEM, syscall.ENOMEM)
	opts, logs := observed()
	l, err := s.UDP(at, opts)
	relaytest.Check(t, err)
	client(t, l, at.String())
	if n := logs.FilterMessage("receive failed, retrying").Len(); n != 1 {
		t.Errorf("%d lines about the failure", n)
	}
	if n := logs.FilterMessage("receiving datagrams again").Len(); n != 1 {
		t.Errorf("%d lines about the recovery", n)
	}
	relaytest.Check(t, l.Close())
	endAll(s)
	// A socket that cannot be watched can be closed.
	w.fail(slices.Repeat([]error{syscall.ENOMEM}, 100)...)
	l, err = s.UDP(at, quiet())
	relaytest.Check(t, err)
	relaytest.Check(t, l.Close())
}

// While a watched socket is suspended, its datagrams stay in the kernel's queue.
func TestSuspendWatchedSocket(t *testing.T) {
	relaytest.NoLeaks(t)
	s, _ := newWatched()
	at := freeAddr(t, "127.0.0.1")
	l := openUDP(t, s, at)
	near, far, taken := client(t, l, at.String())
	for _, text := range []string{"one", "two"} {
		if l.socket.stopped() {
			t.Error("a watched socket has stopped")
		}
		l.socket.suspend()
		relaytest.Eventually(t, "the socket to stop", l.socket.stopped)
		send(t, near, text)
		l.socket.readable() // the call of the Watcher that may follow
		if len(taken) != 0 {
			t.Error("a suspended socket was read")
		}
		l.socket.start()
		l.socket.start() // does nothing
		want(t, taken, text)
	}
	l.socket.suspend()
	far.End()
	relaytest.Check(t, l.Close())
}

// stepper is a UDP client, and a sink that waits after each batch, so that a test decides
// how many datagrams the next batch has. The datagrams are numbers.
type stepper struct {
	t       *testing.T
	near    net.Conn
	far     *Conn
	batches chan int // the number of datagrams of each batch
	proceed chan struct{}
	sent    int
	next    int    // the datagram that the sink expects
	last    func() // called by the sink once, if not nil
}

// newStepper opens a listener that takes the client.
func newStepper(t *testing.T, sockets *Sockets, at netip.AddrPort, opts Options) (*stepper, *UDPListener) {
	t.Helper()
	s := &stepper{t: t, batches: make(chan int, 1), proceed: make(chan struct{})}
	opts.TakeUDP = func(c *Conn) Sink {
		s.far = c
		return s.receive
	}
	l, err := sockets.UDP(at, opts)
	relaytest.Check(t, err)
	t.Cleanup(func() { l.Close() })
	s.near = dial(t, "udp", at.String())
	s.send(1)
	s.want(1)
	return s, l
}

func (s *stepper) receive(datagrams [][]byte) bool {
	for _, d := range datagrams {
		if string(d) != strconv.Itoa(s.next) {
			s.t.Errorf("got datagram %s, want %d", d, s.next)
		}
		s.next++
	}
	s.far.socket.detached.flow = batchReads // so that batches are read, not single datagrams
	s.batches <- len(datagrams)
	<-s.proceed
	if s.last != nil {
		s.last()
		s.last = nil
	}
	return true
}

func (s *stepper) send(n int) {
	s.t.Helper()
	for range n {
		send(s.t, s.near, strconv.Itoa(s.sent))
		s.sent++
	}
}

func (s *stepper) want(n int) {
	s.t.Helper()
	if got := relaytest.Receive(s.t, "a batch", s.batches); got != n {
		s.t.Fatalf("a batch of %d datagrams, want %d", got, n)
	}
}

// step sends the next batch while the sink waits, and receives it.
func (s *stepper) step(n int) {
	s.t.Helper()
	s.send(n)
	s.proceed <- struct{}{}
	s.want(n)
}

// wantWatched checks how the only socket of a watcher is watched.
func wantWatched(t *testing.T, w *watcher, busy bool) {
	t.Helper()
	want := [2]int32{1, 0}
	if busy {
		want = [2]int32{0, 1}
	}
	var got [2]int32
	relaytest.Eventually(t, fmt.Sprintf("the socket to be watched, busy=%t", busy), func() bool {
		got = [2]int32{w.nowUsual.Load(), w.nowBusy.Load()}
		return got == want
	})
}

// A socket whose batches are full becomes busy, and is not busy any more after many small
// ones. Datagrams are neither lost, doubled nor reordered.
func TestBusySocket(t *testing.T) {
	skipWithoutBatches(t)
	relaytest.NoLeaks(t)
	s, w := newWatched()
	c, _ := newStepper(t, s, freeAddr(t, "127.0.0.1"), quiet())
	for range 2 {
		for range busyBatches - 1 {
			c.step(netio.Batch)
		}
		c.step(netio.Batch - 1) // one that is not full
		for range busyBatches - 1 {
			c.step(netio.Batch)
		}
		wantWatched(t, w, false)
		c.step(netio.Batch)
		c.step(smallBatch + 1)
		wantWatched(t, w, true)
		for range calmBatches - 1 {
			c.step(1)
		}
		c.step(smallBatch + 1)
		for range calmBatches - 1 {
			c.step(smallBatch)
		}
		wantWatched(t, w, true)
		c.step(1)
		c.step(1)
		wantWatched(t, w, false)
	}
	close(c.proceed)
	c.far.End()
}

// skipWithoutBatches skips a test if batches have one datagram.
func skipWithoutBatches(t *testing.T) {
	t.Helper()
	if netio.Disabled("batch") {
		t.Skip("datagrams are received one by one")
	}
}

// becomeBusy makes the socket busy at the end of the batch that is being delivered.
func (s *stepper) becomeBusy() {
	s.t.Helper()
	for range busyBatches {
		s.step(netio.Batch)
	}
}

// A socket that is suspended when it becomes busy is watched after that, as a busy one.
func TestSuspendSocketThatBecomesBusy(t *testing.T) {
	skipWithoutBatches(t)
	relaytest.NoLeaks(t)
	s, w := newWatched()
	c, l := newStepper(t, s, freeAddr(t, "127.0.0.1"), quiet())
	c.becomeBusy()
	c.last = l.socket.suspend
	c.send(3)
	c.proceed <- struct{}{}
	relaytest.Eventually(t, "the socket to stop", l.socket.stopped)
	if w.nowUsual.Load()+w.nowBusy.Load() > 0 || len(c.batches) > 0 {
		t.Error("a suspended socket is watched")
	}
	l.socket.start()
	c.want(3)
	wantWatched(t, w, true)
	// It is suspended and started while it is read.
	c.last = func() { l.socket.suspend(); l.socket.start() }
	c.step(5)
	c.step(2)
	wantWatched(t, w, true)
	// A call of readable does nothing while another one is running.
	c.send(1)
	returned := make(chan struct{})
	go func() { l.socket.readable(); close(returned) }()
	relaytest.Receive(t, "the other call to return", returned)
	c.proceed <- struct{}{}
	c.want(1)
	close(c.proceed)
	c.far.End()
}

// A socket may be closed when it becomes busy.
func TestCloseSocketThatBecomesBusy(t *testing.T) {
	skipWithoutBatches(t)
	relaytest.NoLeaks(t)
	s, w := newWatched()
	at := freeAddr(t, "127.0.0.1")
	c, l := newStepper(t, s, at, quiet())
	c.becomeBusy()
	c.last = func() {
		_ = l.Close()
		c.far.End()
	}
	close(c.proceed)
	relaytest.Receive(t, "the socket to be closed", l.socket.released)
	wantNoSockets(t, s)
	openUDP(t, s, at)
	wantWatched(t, w, false)
}

// If a busy socket cannot be watched, that is tried again after a pause.
func TestWatchBusyFails(t *testing.T) {
	skipWithoutBatches(t)
	relaytest.NoLeaks(t)
	s, w := newWatched()
	opts, logs := observed()
	c, _ := newStepper(t, s, freeAddr(t, "127.0.0.1"), opts)
	c.becomeBusy()
	w.fail(syscall.ENOMEM, syscall.ENOMEM)
	c.step(7)
	wantWatched(t, w, true)
	close(c.proceed)
	c.near.Close()
	relaytest.Eventually(t, "the log line", func() bool { return logs.FilterMessage("receiving datagrams again").Len() == 1 })
	if n := logs.FilterMessage("receive failed, retrying").Len(); n != 1 {
		t.Errorf("%d lines about the failure", n)
	}
	c.far.End()
}
