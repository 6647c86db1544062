package handler

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
)

func loopPort(t testing.TB, socket Socket) uint16 {
	addr, err := unix.Getsockname(socket.(*loopSocket).fd)
	if err != nil {
		t.Error(err)
	}
	switch a := addr.(type) {
	case *unix.SockaddrInet4:
		return uint16(a.Port)
	case *unix.SockaddrInet6:
		return uint16(a.Port)
	}
	return 0
}

// descriptors counts those of this process but pipes, of which package net keeps
// some for a copy of its own until a garbage collection.
func descriptors(t testing.TB) int {
	t.Helper()
	all, pipes := openFiles(t)
	return all - pipes
}

func openFiles(t testing.TB) (all, pipes int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	for _, file := range list {
		if to, _ := os.Readlink("/proc/self/fd/" + file.Name()); strings.HasPrefix(to, "pipe:") {
			pipes++
		}
	}
	return len(list), pipes
}

// After the last socket nothing is left, and the next one finds all well.
func TestLoopsComeAndGo(t *testing.T) {
	noLeaks(t)
	backend := newUDPBackend(t, echoDatagram)
	before := descriptors(t)
	engine := NewEngine()
	for range 3 {
		sockets := make([]Socket, 100)
		for i := range sockets {
			sockets[i] = openSocket(t, engine, backend.addr, new(collector))
		}
		// Some that tests before this one had may only be closed meanwhile.
		if now := descriptors(t); now < before+len(sockets)/2 {
			t.Fatalf("%d descriptors, were %d", now, before)
		}
		for _, s := range sockets {
			s.Close()
		}
		eventually(t, "all descriptors closed", func() bool { return descriptors(t) <= before })
	}
	// As fast as can be, on one loop.
	one := oneLoop()
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for range 200 {
				sink := newStuckSink()
				close(sink.release)
				s := openSocket(t, one, backend.addr, sink)
				check(t, send(s, []byte("a")))
				receiveFrom(t, "the echo", sink.entered)
				s.Close()
			}
		})
	}
	workers.Wait()
	eventually(t, "all descriptors closed", func() bool { return descriptors(t) <= before })
}

// oneLoop keeps no spare sockets.
func oneLoop() *loops {
	e := newLoops(1)
	e.spares.most = 0
	return e
}

// A loop is stopped with events at hand, and started again with their
// descriptors in new hands: the old run leaves these alone.
func TestLoopStoppedWithEventsAtHand(t *testing.T) {
	noLeaks(t)
	backend := newUDPBackend(t, echoDatagram)
	sendText := func(s Socket, text string) {
		t.Helper()
		check(t, send(s, []byte(text)))
		receiveFrom(t, "the datagram at the backend", backend.got)
		eventually(t, "its echo in the kernel", func() bool { return pending(t, s.(*loopSocket).fd) })
	}
	for range 50 {
		before := descriptors(t)
		engine := oneLoop()
		reused := openSocket(t, engine, backend.addr, new(collector))
		first, second := newStuckSink(), newStuckSink()
		blocks, asWell := openSocket(t, engine, backend.addr, first), openSocket(t, engine, backend.addr, second)
		check(t, send(blocks, []byte("a")))
		receiveFrom(t, "a datagram", first.entered)
		sendText(asWell, "b") // these two are the next events, in this order
		sendText(reused, "c")
		close(first.release)
		receiveFrom(t, "a datagram", second.entered)
		reused.Close()
		blocks.Close()
		asWell.Close()
		engine.all[0].stopIdle() // the loop stops, and has yet to see the event of reused

		heir := newStuckSink()
		socket := openSocket(t, engine, backend.addr, heir)
		same := socket.(*loopSocket).fd == reused.(*loopSocket).fd
		check(t, send(socket, []byte("one")))
		receiveFrom(t, "a datagram", heir.entered) // and it has not returned
		sendText(socket, "two")
		close(second.release)
		eventually(t, "the end of the old run", func() bool { return runs() == 1 || len(heir.entered) > 0 })
		if len(heir.entered) > 0 {
			t.Fatal("the old run gives the new socket's datagrams, beside the new one")
		}
		close(heir.release)
		if got := receiveFrom(t, "a datagram", heir.entered); got != "two" {
			t.Fatalf("got %q", got)
		}
		socket.Close()
		eventually(t, "all descriptors closed", func() bool { return descriptors(t) <= before })
		if same {
			return
		}
	}
	t.Skip("somebody else got the descriptor each time")
}

// runs counts the loops' goroutines.
func runs() (n int) {
	for _, stack := range goroutineStacks() {
		if strings.Contains(stack, ".(*loop).run(") {
			n++
		}
	}
	return n
}

// pending says whether a datagram waits in a socket.
func pending(t testing.TB, fd int) bool {
	t.Helper()
	n, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
	return n > 0
}

// Without descriptors it is nobody else's fault, whichever of them is lacking.
func TestEngineWithoutDescriptors(t *testing.T) {
	if !alone(t) {
		return
	}
	overEngines(t, func(t *testing.T, engine Engine) {
		noLeaks(t)
		openSocket(t, goroutines{}, "127.0.0.1:53", new(collector)).Close() // the runtime's own are open now
		before := descriptors(t)
		var old syscall.Rlimit
		check(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old))
		next, err := unix.Dup(0)
		check(t, err)
		check(t, unix.Close(next))
		for spare := range 2 { // none for the socket, or none for the epoll
			limit := old
			limit.Cur = uint64(next + spare)
			check(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
			socket, err := engine.Open(netip.MustParseAddrPort("127.0.0.1:53"), new(collector))
			check(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old))
			if err == nil {
				socket.Close()
				if _, is := engine.(*loops); is || spare == 0 {
					t.Errorf("%d descriptors were enough", spare)
				}
			} else if netio.Classify(err) != netio.Exhausted {
				t.Errorf("%d descriptors: %v", spare, err)
			}
			eventually(t, "what was opened is closed", func() bool { return descriptors(t) <= before })
		}
		openSocket(t, engine, "127.0.0.1:53", new(collector)).Close()
	})
}

// Whoever finds no room in the socket's buffer does not wait for it: sessions
// send with their lock held.
func TestEngineSendDoesNotWait(t *testing.T) {
	// A full queue at the other end is the portable way to a write that waits.
	pair := func() (near, far int) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		check(t, err)
		t.Cleanup(func() { unix.Close(fds[1]) })
		return fds[0], fds[1]
	}
	fill := func(t *testing.T, send func([]byte) error) {
		done := make(chan error, 1)
		go func() {
			for {
				if err := send(make([]byte, 1000)); err != nil {
					done <- err
					return
				}
			}
		}()
		if err := receiveFrom(t, "the end of the room", done); !oneDatagrams(err) || !errors.Is(err, unix.EAGAIN) {
			t.Errorf("%v", err)
		}
	}
	t.Run("goroutines", func(t *testing.T) {
		near, _ := pair()
		conn := fileConn(t, near)
		var s sender
		fill(t, func(d []byte) error { return s.send(conn, d) })
	})
	t.Run("loops", func(t *testing.T) {
		near, _ := pair()
		defer unix.Close(near)
		s := &loopSocket{fd: near}
		fill(t, func(d []byte) error { return send(s, d) })
	})
}

// fileConn makes a connection of package net; it has the descriptor from now on.
func fileConn(t testing.TB, fd int) syscall.Conn {
	t.Helper()
	file := os.NewFile(uintptr(fd), "socket")
	t.Cleanup(func() { file.Close() })
	return file
}
