package listen

import (
	"errors"
	"net"
	"strconv"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// watcher is a Watcher with one event loop. Its first calls fail with errs.
type watcher struct {
	poller *netio.Poller[func()]
	errs   []error
}

func newWatcher() *watcher {
	w := &watcher{poller: netio.NewPoller(1, func() (netio.Run[func()], error) { return watcherRun{}, nil })}
	w.poller.StopWhenIdle()
	return w
}

func (w *watcher) Watch(fd int, readable func()) (stop func(), err error) {
	if len(w.errs) > 0 {
		err, w.errs = w.errs[0], w.errs[1:]
		return nil, err
	}
	slot, err := w.poller.Join(readable)
	if err != nil {
		return nil, err
	}
	token, err := w.poller.Watch(slot, 0, fd, netio.Readable)
	return func() {
		w.poller.Unwatch(token, fd)
		w.poller.Leave(slot)
	}, err
}

type watcherRun struct{}

func (watcherRun) Turn(ready []netio.Ready[func()]) {
	for _, r := range ready {
		r.Value()
	}
}

func (watcherRun) End() {}

// watchedSockets returns Sockets that give no further UDP socket a goroutine.
func watchedSockets(t *testing.T, w *watcher) *Sockets {
	s := NewSockets()
	s.Watcher = w
	for range maxReaders {
		if l := openUDP(t, s, freeAddr(t, "127.0.0.1")); l.socket.detached.is() {
			t.Fatal("the first sockets are watched")
		}
	}
	return s
}

// A socket beyond the first ones is watched. Its clients are served as those of other
// sockets, also by later configs, and its address is free once it has closed.
func TestWatchedSockets(t *testing.T) {
	for _, host := range []string{"127.0.0.1", ""} {
		t.Run("at="+host, func(t *testing.T) {
			relaytest.NoLeaks(t)
			s, at := watchedSockets(t, newWatcher()), freeAddr(t, host)
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
	s, at := watchedSockets(t, newWatcher()), freeAddr(t, "127.0.0.1")
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
	w := newWatcher()
	s, at := watchedSockets(t, w), freeAddr(t, "127.0.0.1")
	w.errs = []error{syscall.ENOMEM, syscall.ENOMEM}
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
	w.errs = []error{syscall.ENOMEM, syscall.ENOMEM, syscall.ENOMEM, syscall.ENOMEM, syscall.ENOMEM}
	l, err = s.UDP(at, quiet())
	relaytest.Check(t, err)
	relaytest.Check(t, l.Close())
}

// While a watched socket is suspended, its datagrams stay in the kernel's queue.
func TestSuspendWatchedSocket(t *testing.T) {
	relaytest.NoLeaks(t)
	s, at := watchedSockets(t, newWatcher()), freeAddr(t, "127.0.0.1")
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
