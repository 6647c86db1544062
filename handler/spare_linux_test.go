package handler

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// reopen opens a socket by way of a spare one, once that has rested.
func reopen(t *testing.T, e *loops, addr string, sink Sink, spare Socket) Socket {
	t.Helper()
	time.Sleep(restFor)
	s := openSocket(t, e, addr, sink)
	if s != spare {
		t.Fatal("a new socket beside a spare one")
	}
	return s
}

// A socket serves one session after another, and none hears of another's: not
// what came too late, not by a late answer, and not of its errors.
func TestSpareSocketsForget(t *testing.T) {
	noLeaks(t)
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		t.Run(host, func(t *testing.T) {
			backend, err := net.ListenPacket("udp", host+":0")
			if err != nil && host == "[::1]" {
				t.Skip(err)
			}
			check(t, err)
			defer backend.Close()
			at := backend.LocalAddr().String()
			ask := func(s Socket, text string) net.Addr {
				t.Helper()
				check(t, send(s, []byte(text)))
				buf := make([]byte, 100)
				check(t, backend.SetReadDeadline(time.Now().Add(limit)))
				n, from, err := backend.ReadFrom(buf)
				check(t, err)
				if string(buf[:n]) != text {
					t.Fatalf("the backend got %q, want %q", buf[:n], text)
				}
				return from
			}
			answer := func(to net.Addr, text string) {
				t.Helper()
				_, err := backend.WriteTo([]byte(text), to)
				check(t, err)
			}

			e := newLoops(2)
			first := new(collector)
			socket := openSocket(t, e, at, first)
			old := ask(socket, "one")
			answer(old, "for one")
			eventually(t, "the answer", func() bool { got, _ := first.count(); return got == 1 })
			socket.Close()
			answer(old, "late, and between two sessions")

			second := new(collector)
			socket = reopen(t, e, at, second, socket)
			answer(old, "late, and to a port of another time")
			now := ask(socket, "two")
			if now.String() == old.String() {
				t.Errorf("the same port for both: %v", now)
			}
			answer(now, "for two")
			eventually(t, "the answer", func() bool { got, _ := second.count(); return got > 0 })
			got, errs := second.told()
			if len(got) != 1 || string(got[0]) != "for two" || len(errs) != 0 {
				t.Errorf("the second session got %q, %v", got, errs)
			}
			if n, _ := first.count(); n != 1 {
				t.Errorf("the first one got %d", n)
			}
			socket.Close()

			// An error of the session before is none of the next one's.
			dead := netip.AddrPortFrom(netip.MustParseAddrPort(at).Addr(), 1).String()
			third := new(collector)
			socket = reopen(t, e, dead, third, socket)
			check(t, send(socket, []byte("nobody there")))
			eventually(t, "the refusal", func() bool { _, errs := third.count(); return errs > 0 })
			_ = send(socket, []byte("and another"))
			socket.Close()
			fourth := new(collector)
			socket = reopen(t, e, at, fourth, socket)
			now = ask(socket, "four")
			answer(now, "for four")
			eventually(t, "the answer", func() bool { got, _ := fourth.count(); return got > 0 })
			if got, errs := fourth.told(); len(got) != 1 || string(got[0]) != "for four" || len(errs) != 0 {
				t.Errorf("the session after an error got %q, %v", got, errs)
			}
			socket.Close()
		})
	}
}

// What was in the socket's queue as its session ended is nobody's.
func TestSpareSocketsAreEmptied(t *testing.T) {
	backend := newUDPBackend(t, echoDatagram)
	e := newLoops(1)
	stuck := newStuckSink() // the loop reads nothing more while it waits here
	blocks := openSocket(t, e, backend.addr, stuck)
	check(t, send(blocks, []byte("a")))
	receiveFrom(t, "a datagram", stuck.entered)
	old := openSocket(t, e, backend.addr, new(collector))
	for i := range 5 {
		check(t, send(old, []byte(fmt.Sprint("old ", i))))
	}
	eventually(t, "its echo in the kernel", func() bool { return pending(t, old.(*loopSocket).fd) })
	old.Close()
	sink := new(collector)
	socket := reopen(t, e, backend.addr, sink, old)
	if pending(t, socket.(*loopSocket).fd) {
		t.Error("something is left")
	}
	check(t, send(socket, []byte("new")))
	close(stuck.release)
	eventually(t, "the echo", func() bool { got, _ := sink.count(); return got > 0 })
	if got, _ := sink.told(); len(got) != 1 || string(got[0]) != "new" {
		t.Errorf("got %q", got)
	}
	socket.Close()
	blocks.Close()
}

// A socket that fails session after session, each of which leaves it at once, is
// as good as new to the next one.
func TestSpareSocketsForgetFailures(t *testing.T) {
	e := newLoops(1)
	for n := range maxFailures + 5 {
		sink := leaver{socket: make(chan Socket, 1), left: make(chan string, 1)}
		socket := openSocket(t, e, deadAddr, sink)
		sink.socket <- socket
		if err := send(socket, []byte("a")); err != nil {
			t.Fatalf("session %d: %v", n, err)
		}
		receiveFrom(t, "the refusal", sink.left)
		e.spares.mu.Lock()
		e.spares.ipv4[0].since = time.Time{} // it need not rest for that
		e.spares.mu.Unlock()
	}
}

// leaver closes its socket when that fails, as sessions do.
type leaver struct {
	socket chan Socket
	left   chan string
}

// Datagrams implements [Sink].
func (leaver) Datagrams([][]byte) {}

// Failed implements [Sink].
func (l leaver) Failed(err error) {
	(<-l.socket).Close()
	l.left <- err.Error()
}

// More may lie there than is thrown away for the next session. That is no
// reason to give it the rest.
func TestSpareSocketsTooFull(t *testing.T) {
	backend, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	check(t, err)
	defer backend.Close()
	at := backend.LocalAddr().String()
	say := func(s Socket, text string) {
		t.Helper()
		_, err := backend.WriteToUDPAddrPort([]byte(text), netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), loopPort(t, s)))
		check(t, err)
	}
	e := newLoops(1)
	stuck := newStuckSink() // the loop reads nothing more while it waits here
	blocks := openSocket(t, e, at, stuck)
	say(blocks, "a")
	receiveFrom(t, "a datagram", stuck.entered)
	old := openSocket(t, e, at, new(collector))
	old.(*loopSocket).grow()
	for range 2500 { // as much as a buffer of 1 MiB holds, where the system allows one
		say(old, "old")
	}
	old.Close()
	time.Sleep(restFor)
	sink := new(collector)
	socket := openSocket(t, e, at, sink)
	say(socket, "new")
	close(stuck.release)
	eventually(t, "a datagram", func() bool { got, _ := sink.count(); return got > 0 })
	if got, _ := sink.told(); len(got) != 1 || string(got[0]) != "new" {
		t.Errorf("the next session got %d datagrams, the first is %q", len(got), got[0])
	}
	socket.Close()
	blocks.Close()
}

// Sockets rest before they are used again, are of their family, few, and not
// kept for long.
func TestSpareSocketsAreBounded(t *testing.T) {
	noLeaks(t)
	before := descriptors(t)
	e := newLoops(1)
	var list []Socket
	for range mostSpares + 20 {
		list = append(list, openSocket(t, e, "127.0.0.1:9", new(collector)))
	}
	for _, s := range list {
		s.Close()
	}
	if spares := len(e.spares.ipv4); spares > mostSpares {
		t.Errorf("%d spare sockets", spares)
	}
	if e.spares.get(false, 0) != nil {
		t.Error("one for the other family")
	}
	at := time.Now()
	fresh := openSocket(t, e, "127.0.0.1:9", new(collector))
	if s := fresh.(*loopSocket); time.Since(at) < restFor/2 && s.fd == list[len(list)-1].(*loopSocket).fd {
		t.Error("one that has not rested")
	}
	fresh.Close()
	eventually(t, "all of them closed", func() bool { return descriptors(t) <= before })
}

// Where descriptors have run out, one that has only just become spare will do.
func TestSpareSocketsWhereDescriptorsRunOut(t *testing.T) {
	e := newLoops(1)
	spare := openSocket(t, e, "127.0.0.1:9", new(collector))
	spare.Close()
	if s := e.reuse(netip.MustParseAddrPort("127.0.0.1:9"), new(collector), 0); s != spare {
		t.Errorf("got %v", s)
	}
	// One that cannot be connected is closed, and another is made.
	spare.Close()
	nowhere := netip.MustParseAddrPort("255.255.255.255:0")
	if s := e.reuse(nowhere, new(collector), 0); s == nil {
		if !spare.(*loopSocket).closed {
			t.Error("neither used nor closed")
		}
	} else {
		s.Close()
	}
}

// Spare sockets leave descriptors to others: where there are few, and where a
// session of the other family is to have one. It is a process of its own.
func TestSpareSocketsGiveWay(t *testing.T) {
	if !alone(t) {
		return
	}
	var old syscall.Rlimit
	check(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old))
	limit := func(n int) {
		check(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(n), Max: old.Max}))
	}
	limit(64)
	e := newLoops(1)
	var list []Socket
	for range 24 {
		list = append(list, openSocket(t, e, "127.0.0.1:9", new(collector)))
	}
	taken := descriptors(t)
	for _, s := range list {
		s.Close()
	}
	if left := descriptors(t); left > taken-20 {
		t.Errorf("of 24 sockets %d are left, of 64 descriptors", 24-(taken-left))
	}

	e = newLoops(1)
	evicted := openSocket(t, e, "127.0.0.1:9", new(collector))
	next, err := unix.Dup(0)
	check(t, err)
	check(t, unix.Close(next))
	limit(next)
	evicted.Close()
	_, err = e.Open(netip.MustParseAddrPort("[::1]:9"), new(collector))
	limit(int(old.Cur))
	if errors.Is(err, unix.EMFILE) {
		t.Error(err)
	}
}
