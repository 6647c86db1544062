package dgram

import (
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

func loopPort(t testing.TB, socket Socket) uint16 {
	addr, err := netio.LocalAddr(socket.(*loopSocket).fd)
	if err != nil {
		t.Error(err)
	}
	return addr.Port()
}

// nextDescriptor returns the number of the next descriptor that is opened.
func nextDescriptor(t testing.TB) int {
	t.Helper()
	fd, err := syscall.Dup(0)
	relaytest.Check(t, err)
	relaytest.Check(t, syscall.Close(fd))
	return fd
}

// pending reports whether a datagram is in the receive queue of a socket.
func pending(t testing.TB, fd int) bool {
	t.Helper()
	n, _, err := syscall.Recvfrom(fd, make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	if err != nil && !errors.Is(err, syscall.EAGAIN) {
		t.Fatal(err)
	}
	return n > 0
}

// oneLoop returns an engine with one event loop and without spare sockets.
func oneLoop() *loops {
	e := newLoops(1, nil)
	e.spares.limit = 0
	return e
}

// An engine without sockets holds no descriptors, and works again afterwards.
func TestLoopsStopAndRestart(t *testing.T) {
	relaytest.NoLeaks(t)
	backend := relaytest.NewUDPBackend(t, relaytest.Echo)
	before := relaytest.OpenDescriptors(t)
	engine := NewEngine(nil)
	for range 3 {
		sockets := make([]Socket, 100)
		for i := range sockets {
			sockets[i] = openSocket(t, engine, backend.Addr, new(collector))
		}
		// Descriptors of earlier tests may be closed only now.
		if now := relaytest.OpenDescriptors(t); now < before+len(sockets)/2 {
			t.Fatalf("%d descriptors, were %d", now, before)
		}
		for _, s := range sockets {
			s.Close()
		}
		relaytest.Eventually(t, "all descriptors to be closed", func() bool { return relaytest.OpenDescriptors(t) <= before })
	}
	// One loop, with sockets that are opened and closed as fast as possible.
	one := oneLoop()
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for range 200 {
				sink := newStuckSink()
				close(sink.release)
				s := openSocket(t, one, backend.Addr, sink)
				relaytest.Check(t, send(s, []byte("a")))
				relaytest.Receive(t, "the echo", sink.entered)
				s.Close()
			}
		})
	}
	workers.Wait()
	relaytest.Eventually(t, "all descriptors to be closed", func() bool { return relaytest.OpenDescriptors(t) <= before })
}

// A loop stops while its last turn holds events, and a new run starts with the
// same descriptor numbers. The old run does not read the new sockets.
func TestLoopStopsWithPendingEvents(t *testing.T) {
	relaytest.NoLeaks(t)
	backend := relaytest.NewUDPBackend(t, relaytest.Echo)
	sendText := func(s Socket, text string) {
		t.Helper()
		relaytest.Check(t, send(s, []byte(text)))
		relaytest.Receive(t, "the datagram at the backend", backend.Received)
		relaytest.Eventually(t, "its echo in the kernel", func() bool { return pending(t, s.(*loopSocket).fd) })
	}
	for range 50 {
		before := relaytest.OpenDescriptors(t)
		engine := oneLoop()
		reused := openSocket(t, engine, backend.Addr, new(collector))
		first, second := newStuckSink(), newStuckSink()
		blocker, nextBlocker := openSocket(t, engine, backend.Addr, first), openSocket(t, engine, backend.Addr, second)
		relaytest.Check(t, send(blocker, []byte("a")))
		relaytest.Receive(t, "a datagram", first.entered)
		sendText(nextBlocker, "b") // these two are the next events, in this order
		sendText(reused, "c")
		close(first.release)
		relaytest.Receive(t, "a datagram", second.entered)
		reused.Close()
		blocker.Close()
		nextBlocker.Close()
		// The loop stops after its linger time. Its last turn still has the event of reused.
		relaytest.Eventually(t, "the epoll instance to be closed", func() bool { return relaytest.OpenDescriptors(t) <= before })

		sink := newStuckSink()
		socket := openSocket(t, engine, backend.Addr, sink)
		same := socket.(*loopSocket).fd == reused.(*loopSocket).fd
		relaytest.Check(t, send(socket, []byte("one")))
		relaytest.Receive(t, "a datagram", sink.entered) // the sink has not returned
		sendText(socket, "two")
		close(second.release)
		relaytest.Eventually(t, "the end of the old run", func() bool { return runs() == 1 || len(sink.entered) > 0 })
		if len(sink.entered) > 0 {
			t.Fatal("the old run reads the new socket, in parallel with the new run")
		}
		close(sink.release)
		if got := relaytest.Receive(t, "a datagram", sink.entered); got != "two" {
			t.Fatalf("got %q", got)
		}
		socket.Close()
		relaytest.Eventually(t, "all descriptors to be closed", func() bool { return relaytest.OpenDescriptors(t) <= before })
		if same {
			return
		}
	}
	t.Skip("the new socket never got the descriptor number of the old one")
}

// runs returns the number of goroutines of event loops.
func runs() int {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	n := 0
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		if strings.Contains(stack, "netio.(*Poller[") && strings.Contains(stack, ".lead(") {
			n++
		}
	}
	return n
}

// Open without descriptors returns an error of class Exhausted, whether the
// socket or the epoll instance fails.
func TestEngineWithoutDescriptors(t *testing.T) {
	if !relaytest.InChild(t) {
		return
	}
	overEngines(t, func(t *testing.T, engine Engine) {
		openSocket(t, Goroutines{}, "127.0.0.1:53", new(collector)).Close() // opens the runtime's own descriptors
		before := relaytest.OpenDescriptors(t)
		next := nextDescriptor(t)
		for free := range 2 { // 0: the socket fails; 1: the epoll instance fails
			restore := relaytest.LimitDescriptors(t, next+free)
			socket, err := engine.Open(netip.MustParseAddrPort("127.0.0.1:53"), new(collector))
			restore()
			if err == nil {
				socket.Close()
				if _, is := engine.(*loops); is || free == 0 {
					t.Errorf("%d descriptors were enough", free)
				}
			} else if netio.Classify(err) != netio.Exhausted {
				t.Errorf("%d descriptors: %v", free, err)
			}
			relaytest.Eventually(t, "all descriptors to be closed", func() bool { return relaytest.OpenDescriptors(t) <= before })
		}
		openSocket(t, engine, "127.0.0.1:53", new(collector)).Close()
	})
}
