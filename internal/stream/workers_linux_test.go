package stream

import (
	"net"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// queuedSize is more than a loop moves for the two events that may be under way when
// bytes are queued.
const queuedSize = 4 * smallTurn

// queueBytes has a relay whose client has sent queuedSize bytes, which are all in the
// relay's queue, and about which the loop has at most two events. Its turns are small.
// The relay moves nothing before it is unlocked. A spliced one is spliced.
func queueBytes(t *testing.T, engine *loops, spliced bool) (r *loopRig, sent string) {
	t.Helper()
	r = newLoopRig(t, engine, setup{buffers: 4 << 20})
	for range smallReads + 1 {
		say(t, r.client, "small")
		hear(t, r.backend, "small")
	}
	r.m.mu.Lock()
	r.m.flows[ClientSide].noSplice = !spliced
	if spliced {
		r.m.flows[ClientSide].bulk = largeReads
	}
	sent = randomText(queuedSize)
	say(t, r.client, sent)
	relaytest.Eventually(t, "the client's bytes", func() bool {
		n, ok := netio.UnreadFD(r.m.sockets[ClientSide].fd)
		return ok && n == queuedSize
	})
	return r, sent
}

// A relay with more to move than one turn allows continues without a new event of its
// sockets, and after the relays of its loop that are ready.
func TestRelayContinues(t *testing.T) {
	t.Setenv("RELAY_DISABLE", "")
	for name, spliced := range map[string]bool{"spliced": true, "copied": false} {
		t.Run(name, func(t *testing.T) {
			relaytest.NoLeaks(t)
			engine := oneLoop(t)
			var waits atomic.Pointer[loopRig] // has an event, and waits for its turn
			var moved atomic.Uint64           // by the relay that has much, before that turn
			var much atomic.Pointer[loopRig]
			engine.all[0].inject = func(m *loopMover) {
				if r := waits.Load(); r != nil && r.m == m && waits.CompareAndSwap(r, nil) {
					moved.Store(much.Load().up.Load())
				}
			}
			other := newLoopRig(t, engine, setup{})
			say(t, other.client, "hello")
			hear(t, other.backend, "hello")
			r, sent := queueBytes(t, engine, spliced)
			much.Store(r)
			waits.Store(other)
			say(t, other.client, "question")
			r.m.mu.Unlock()
			hear(t, other.backend, "question")
			hear(t, r.backend, sent)
			// Of the events that were under way, two may have come before.
			if n := moved.Load(); n >= queuedSize {
				t.Errorf("another relay had its turn after %d bytes", n)
			}
		})
	}
}

// Held bytes for which there is room are written by the loop after a turn that has
// left them, and what follows them is moved then.
func TestHeldBytesContinue(t *testing.T) {
	for _, ended := range []bool{false, true} {
		relaytest.NoLeaks(t)
		r := newLoopRig(t, oneLoop(t), setup{})
		say(t, r.client, "hello")
		hear(t, r.backend, "hello")
		relaytest.Eventually(t, "a client that has no room", func() bool { // so nothing else is reported
			sendUntilFull(t, r.backend)
			return r.flow(BackendSide) == blocked
		})
		r.m.mu.Lock()
		r.m.flows[ClientSide].held = []byte("held ") // as left by a splice(2) that does not work
		r.m.ends.block(ClientSide)
		if ended {
			r.m.doLocked(ClientSide, r.m.ends.end(ClientSide))
		}
		r.m.continueLocked()
		r.m.mu.Unlock()
		if ended {
			wantStream(t, "the backend", r.backend, "held ", fin)
			continue
		}
		hear(t, r.backend, "held ")
		say(t, r.client, "more") // which is read now
		hear(t, r.backend, "more")
	}
}

// While several workers handle events of one relay at the same time, its bytes stay in
// order, and none is lost.
func TestWorkersKeepTheOrder(t *testing.T) {
	const relays, size = 3, 6 << 20
	for name, disable := range map[string]string{"spliced": "", "copied": "splice"} {
		for kind, newEngine := range map[string]func() *loops{
			"shared":    func() *loops { return sharedLoop(t, 3) },
			"scattered": func() *loops { return newScattered().(*loops) },
		} {
			t.Run(name+" "+kind, func(t *testing.T) {
				t.Setenv("RELAY_DISABLE", disable)
				relaytest.NoLeaks(t)
				engine := newEngine()
				t.Cleanup(engine.StopWhenIdle)
				var rigs []*loopRig
				var transfers []<-chan error
				for range relays {
					r := newLoopRig(t, engine, setup{})
					rigs = append(rigs, r)
					transfers = append(transfers, relaytest.Transfer(r.client, r.backend, size, true), relaytest.Transfer(r.backend, r.client, size, true))
				}
				wantDelivered(t, transfers...)
				for _, r := range rigs {
					if end := r.end(); end.BytesUp != size || end.BytesDown != size {
						t.Errorf("ended as %+v", end)
					}
				}
			})
		}
	}
}

// Watch reports a listening socket again while clients are queued, also to several
// workers, until stop is called.
func TestWatch(t *testing.T) {
	forEachLoop(t, func(t *testing.T, engine *loops) {
		const clients = 20
		listener := listen(t, "127.0.0.1:0")
		raw, err := listener.(*net.TCPListener).SyscallConn()
		relaytest.Check(t, err)
		fd := -1
		relaytest.Check(t, raw.Control(func(listener uintptr) { fd, err = unix.Dup(int(listener)) }))
		relaytest.Check(t, err)
		first, queued := make(chan struct{}), make(chan struct{})
		var calls, accepted atomic.Int32
		stop, err := engine.Watch(fd, func() {
			if calls.Add(1) == 1 {
				close(first)
				<-queued // all further clients come before the next report
			}
			if client, _, err := unix.Accept4(fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC); err == nil {
				netio.CloseDescriptor(client)
				accepted.Add(1)
			}
		})
		relaytest.Check(t, err)
		dial := func() {
			conn, err := net.Dial("tcp", listener.Addr().String())
			relaytest.Check(t, err)
			t.Cleanup(func() { conn.Close() })
		}
		dial()
		relaytest.Receive(t, "the first report", first)
		for range clients - 1 {
			dial()
		}
		close(queued)
		relaytest.Eventually(t, "all clients", func() bool { return accepted.Load() == clients })

		stop()
		if n := engine.all[0].poller.Owners(); n != 0 {
			t.Errorf("%d sockets are watched after stop", n)
		}
		again, err := engine.Watch(fd, func() {}) // which fails if the kernel still watches it
		relaytest.Check(t, err)
		again()
		settled := newLoopRig(t, engine, setup{})
		converse := func() {
			for range 10 {
				say(t, settled.client, "question")
				hear(t, settled.backend, "question")
			}
		}
		converse() // after which calls that were under way are over
		before := calls.Load()
		dial()
		converse()
		if n := calls.Load() - before; n > 0 {
			t.Errorf("%d calls after stop", n)
		}
		netio.CloseDescriptor(fd)
	})
}

// Watch that fails leaves nothing behind.
func TestWatchFails(t *testing.T) {
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	if _, err := engine.Watch(-1, func() {}); err == nil {
		t.Error("a descriptor that is none is watched")
	}
	if n := engine.all[0].poller.Owners(); n != 0 {
		t.Errorf("%d owners", n)
	}
}
