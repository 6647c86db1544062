package dgram

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// newUnsweptLoops returns an engine that closes no spare sockets before the end of
// the test, however slow the test is.
func newUnsweptLoops(t *testing.T, n int) *loops {
	forgetPorts()
	e := newLoops(n, nil)
	e.spares.sweeping = true
	stopWithTest(t, e)
	return e
}

// forgetPorts makes all ports rested. After a test with thousands of sessions, most
// new sockets have a port that has not, and are set aside.
func forgetPorts() {
	for i := range ports.since {
		ports.since[i].Store(0)
	}
}

// kept returns how many IPv4 sockets are spare.
func (s *spares) kept() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ipv4.len()
}

// reopen opens a socket after the spare socket has paused, and fails the test if
// Open does not return the spare socket.
func reopen(t *testing.T, e *loops, addr string, sink Sink, spare Socket) Socket {
	t.Helper()
	time.Sleep(pauseTime)
	s := openSocket(t, e, addr, sink)
	if s != spare {
		t.Fatal("Open returned a new socket, want the spare one")
	}
	return s
}

// A socket serves one session after another. No session receives late answers or
// errors of an earlier one.
func TestSpareSocketIsolatesSessions(t *testing.T) {
	relaytest.NoLeaks(t)
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		t.Run(host, func(t *testing.T) {
			backend, err := net.ListenPacket("udp", host+":0")
			if err != nil && host == "[::1]" {
				t.Skip(err)
			}
			relaytest.Check(t, err)
			defer backend.Close()
			at := backend.LocalAddr().String()
			query := func(s Socket, text string) net.Addr {
				t.Helper()
				relaytest.Check(t, send(s, []byte(text)))
				buf := make([]byte, 100)
				relaytest.Check(t, backend.SetReadDeadline(time.Now().Add(relaytest.Limit)))
				n, from, err := backend.ReadFrom(buf)
				relaytest.Check(t, err)
				if string(buf[:n]) != text {
					t.Fatalf("the backend got %q, want %q", buf[:n], text)
				}
				return from
			}
			answer := func(to net.Addr, text string) {
				t.Helper()
				_, err := backend.WriteTo([]byte(text), to)
				relaytest.Check(t, err)
			}

			e := newUnsweptLoops(t, 2)
			first := new(collector)
			socket := openSocket(t, e, at, first)
			old := query(socket, "one")
			answer(old, "answer one")
			relaytest.Eventually(t, "the answer", func() bool { got, _ := first.count(); return got == 1 })
			socket.Close()
			answer(old, "late, between two sessions")

			second := new(collector)
			socket = reopen(t, e, at, second, socket)
			answer(old, "late, to the port of an earlier session")
			now := query(socket, "two")
			if now.String() == old.String() {
				t.Errorf("both sessions have the address %v", now)
			}
			answer(now, "answer two")
			relaytest.Eventually(t, "the answer", func() bool { got, _ := second.count(); return got > 0 })
			got, errs := second.received()
			if len(got) != 1 || string(got[0]) != "answer two" || len(errs) != 0 {
				t.Errorf("the second session received %q, %v", got, errs)
			}
			if n, _ := first.count(); n != 1 {
				t.Errorf("the first session received %d datagrams", n)
			}
			socket.Close()

			// An error of one session is not reported to the next one, which gets
			// another socket.
			dead := netip.AddrPortFrom(netip.MustParseAddrPort(at).Addr(), 1).String()
			third := new(collector)
			socket = reopen(t, e, dead, third, socket)
			relaytest.Check(t, send(socket, []byte("refused")))
			relaytest.Eventually(t, "the refusal", func() bool { _, errs := third.count(); return errs > 0 })
			_ = send(socket, []byte("and another"))
			socket.Close()
			fourth := new(collector)
			socket = openSocket(t, e, at, fourth)
			now = query(socket, "four")
			answer(now, "answer four")
			relaytest.Eventually(t, "the answer", func() bool { got, _ := fourth.count(); return got > 0 })
			if got, errs := fourth.received(); len(got) != 1 || string(got[0]) != "answer four" || len(errs) != 0 {
				t.Errorf("the session after an error received %q, %v", got, errs)
			}
			socket.Close()
		})
	}
}

// What is in the socket's receive queue when its session ends, and what arrives
// while it rests, is discarded.
func TestSpareSocketIsEmptied(t *testing.T) {
	backend := relaytest.NewUDPBackend(t, relaytest.Echo)
	e := newUnsweptLoops(t, 1)
	stuck := newStuckSink() // the loop reads nothing more while it waits here
	blocker := openSocket(t, e, backend.Addr, stuck)
	relaytest.Check(t, send(blocker, []byte("a")))
	relaytest.Receive(t, "a datagram", stuck.entered)
	old := openSocket(t, e, backend.Addr, new(collector))
	for i := range 5 {
		relaytest.Check(t, send(old, []byte(fmt.Sprint("old ", i))))
	}
	relaytest.Eventually(t, "its echo in the kernel", func() bool { return pending(t, old.(*loopSocket).fd) })
	old.Close()
	sink := new(collector)
	socket := reopen(t, e, backend.Addr, sink, old)
	if !pending(t, socket.(*loopSocket).fd) {
		t.Error("the reused socket has no old datagrams: this test proves nothing")
	}
	relaytest.Check(t, send(socket, []byte("new")))
	close(stuck.release)
	relaytest.Eventually(t, "the echo", func() bool { got, _ := sink.count(); return got > 0 })
	if got, _ := sink.received(); len(got) != 1 || string(got[0]) != "new" {
		t.Errorf("got %q", got)
	}
	socket.Close()
	blocker.Close()
}

// A socket that had an error is closed: another one may be pending.
func TestSocketWithErrorIsNotKept(t *testing.T) {
	forgetPorts()
	e := newLoops(1, nil)
	for n := range 10 {
		sink := closer{socket: make(chan Socket, 1), closed: make(chan string, 1)}
		socket := openSocket(t, e, deadAddr, sink)
		sink.socket <- socket
		if err := send(socket, []byte("a")); err != nil {
			t.Fatalf("session %d: %v", n, err)
		}
		relaytest.Receive(t, "the refusal", sink.closed)
		if kept := e.spares.kept(); kept != 0 {
			t.Fatalf("session %d: %d sockets are kept", n, kept)
		}
	}
}

// closer is a Sink that closes its socket when the socket fails, as sessions do.
type closer struct {
	socket chan Socket
	closed chan string // receives the error
}

// Datagrams implements [Sink].
func (closer) Datagrams([][]byte) {}

// Failed implements [Sink].
func (c closer) Failed(err error) {
	(<-c.socket).Close()
	c.closed <- err.Error()
}

// A spare socket whose receive queue holds more than is discarded is not reused.
func TestSpareSocketWithFullQueue(t *testing.T) {
	backend, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	relaytest.Check(t, err)
	defer backend.Close()
	at := backend.LocalAddr().String()
	answer := func(s Socket, text string) {
		t.Helper()
		_, err := backend.WriteToUDPAddrPort([]byte(text), netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), loopPort(t, s)))
		relaytest.Check(t, err)
	}
	forgetPorts()
	e := newLoops(1, nil)
	stuck := newStuckSink() // the loop reads nothing more while it waits here
	blocker := openSocket(t, e, at, stuck)
	answer(blocker, "a")
	relaytest.Receive(t, "a datagram", stuck.entered)
	old := openSocket(t, e, at, new(collector))
	old.(*loopSocket).growBuffers()
	for range 2500 { // as many as a buffer of 1 MiB holds, if the system allows that size
		answer(old, "old")
	}
	old.Close()
	time.Sleep(pauseTime)
	sink := new(collector)
	socket := openSocket(t, e, at, sink)
	answer(socket, "new")
	close(stuck.release)
	relaytest.Eventually(t, "a datagram", func() bool { got, _ := sink.count(); return got > 0 })
	if got, _ := sink.received(); len(got) != 1 || string(got[0]) != "new" {
		t.Errorf("the next session received %d datagrams, the first is %q", len(got), got[0])
	}
	socket.Close()
	blocker.Close()
}

// Spare sockets are limited in number, serve their own address family only, and
// are closed after a while.
func TestSpareSocketsAreBounded(t *testing.T) {
	relaytest.NoLeaks(t)
	before := relaytest.OpenDescriptors(t)
	forgetPorts()
	e := newLoops(1, nil)
	var list []Socket
	for range maxSpares + 20 {
		list = append(list, openSocket(t, e, "127.0.0.1:9", new(collector)))
	}
	for _, s := range list {
		s.Close()
	}
	if spares := e.spares.kept(); spares > maxSpares {
		t.Errorf("%d spare sockets", spares)
	}
	if e.spares.take(false, time.Now(), 0) != nil {
		t.Error("an IPv4 socket was returned for IPv6")
	}
	relaytest.Eventually(t, "all descriptors to be closed", func() bool { return relaytest.OpenDescriptors(t) <= before })
}

func newOpening(addr string) *opening {
	return &opening{addr: netip.MustParseAddrPort(addr), sink: new(collector), now: time.Now()}
}

// A spare socket that cannot be connected is closed.
func TestSpareSocketThatCannotConnect(t *testing.T) {
	e := newUnsweptLoops(t, 1)
	spare := openSocket(t, e, "127.0.0.1:9", new(collector))
	spare.Close()
	if s := e.reuse(newOpening("127.0.0.1:9"), 0); s != spare {
		t.Errorf("got %v", s)
	}
	spare.Close()
	nowhere := newOpening("255.255.255.255:0")
	if s := e.reuse(nowhere, 0); s == nil {
		if !spare.(*loopSocket).closed {
			t.Error("the spare socket is neither used nor closed")
		}
	} else {
		s.Close()
	}
}

// Spare sockets leave descriptors free: fewer are kept if the limit is low, and
// all are closed if a session of the other family needs a descriptor.
func TestSpareSocketsReleaseDescriptors(t *testing.T) {
	if !relaytest.InChild(t) {
		return
	}
	restore := relaytest.LimitDescriptors(t, 64)
	forgetPorts()
	e := newLoops(1, nil)
	var list []Socket
	for range 24 {
		list = append(list, openSocket(t, e, "127.0.0.1:9", new(collector)))
	}
	open := relaytest.OpenDescriptors(t)
	for _, s := range list {
		s.Close()
	}
	if left := relaytest.OpenDescriptors(t); left > open-20 {
		t.Errorf("%d of 24 sockets are kept, with a limit of 64 descriptors", 24-(open-left))
	}
	restore()

	forgetPorts()
	e = newLoops(1, nil)
	evicted := openSocket(t, e, "127.0.0.1:9", new(collector))
	restore = relaytest.LimitDescriptors(t, nextDescriptor(t))
	evicted.Close()
	_, err := e.Open(netip.MustParseAddrPort("[::1]:9"), new(collector))
	restore()
	if errors.Is(err, syscall.EMFILE) {
		t.Error(err)
	}
}

// A list of spare sockets keeps their order, and does not grow while as many are
// added as removed.
func TestSpareList(t *testing.T) {
	var l spareList
	if l.first().socket != nil || l.len() != 0 {
		t.Error("an empty list has a socket")
	}
	sockets := make([]loopSocket, 1000)
	next, largest := 0, 0
	remove := func() {
		if got := l.first().socket; got != &sockets[next] {
			t.Fatalf("socket %d is not in front", next)
		}
		l.removeFirst()
		next++
	}
	for i := range sockets {
		l.push(spare{socket: &sockets[i]})
		largest = max(largest, cap(l.all))
		if l.len() > 10 {
			remove()
		}
	}
	if largest > 4*11 {
		t.Errorf("memory for %d sockets, at most 11 were spare", largest)
	}
	for l.len() > 0 {
		remove()
	}
	if next != len(sockets) {
		t.Errorf("%d sockets were removed, want %d", next, len(sockets))
	}
}
