package listen

import (
	"errors"
	"net"
	"slices"
	"strconv"
	"syscall"
	"testing"

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
