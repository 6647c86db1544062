package stream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// connectRig is a relay on a loop that has no backend yet.
type connectRig struct {
	*recorder
	m      *loopMover
	client *net.TCPConn // the test's end
}

func newConnectRig(t testing.TB, engine *loops) *connectRig {
	t.Helper()
	return newHeaderRig(t, engine, "")
}

// newHeaderRig is newConnectRig with a PROXY protocol header for the backend.
func newHeaderRig(t testing.TB, engine *loops, header string) *connectRig {
	t.Helper()
	near, far := tcpPair(t, 0)
	r := &connectRig{recorder: newRecorder(t), client: near}
	client := plainClient(far)
	client.Early, client.HeaderLen = []byte(header), len(header)
	r.m = engine.NewMover(client, r, NewWheel(longIdle)).(*loopMover)
	t.Cleanup(func() { r.m.Cut(Shutdown) })
	return r
}

func (r *connectRig) end() End {
	r.t.Helper()
	return relaytest.Receive(r.t, "the end of the relay", r.ended)
}

func (r *connectRig) wantEnd(reason Reason, up, down int64) {
	r.t.Helper()
	if got := r.end(); got.Reason != reason || got.BytesUp != up || got.BytesDown != down {
		r.t.Errorf("ended as %+v, want %s with %d bytes up and %d down", got, reason, up, down)
	}
}

// carry has the relay continue with a connection that was slow.
func (r *connectRig) carry(pending Pending) {
	r.t.Helper()
	conn, err := pending.Await(r.t.Context())
	relaytest.Check(r.t, err)
	r.m.Carry(conn, r.totals())
}

// carryTo has the relay continue with a connection that the test dials.
func (r *connectRig) carryTo(addr netip.AddrPort) {
	r.t.Helper()
	conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(addr))
	relaytest.Check(r.t, err)
	r.m.Carry(conn, r.totals())
}

// awaitLocked has the loop wait for a connection, as Connect does if it is not
// established at once. The connection is slow when the test says so, not after
// slowConnect: the machine may be slower. The caller holds the lock.
func (r *connectRig) awaitLocked(fd int) {
	r.t.Helper()
	r.m.sockets[BackendSide] = socket{fd: fd, watchOut: true}
	r.m.nagle = nagleIdle
	relaytest.Check(r.t, r.m.watchLocked(BackendSide))
	r.waited = true
	r.m.connecting = time.AfterFunc(time.Hour, r.m.connectIsSlow)
}

func addrPort(listener net.Listener) netip.AddrPort {
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

func accept(t testing.TB, listener net.Listener) *net.TCPConn {
	t.Helper()
	relaytest.Check(t, listener.(*net.TCPListener).SetDeadline(time.Now().Add(relaytest.Limit)))
	conn, err := listener.Accept()
	relaytest.Check(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

// connectTo returns a connection that is established.
func connectTo(t testing.TB, listener net.Listener) (fd int, backend *net.TCPConn) {
	t.Helper()
	fd, done, err := netio.ConnectTCPNonblock(addrPort(listener))
	relaytest.Check(t, err)
	if !done {
		t.Fatal("a connection over loopback is under way")
	}
	netio.SetQuickAck(fd)
	return fd, accept(t, listener)
}

func TestConnect(t *testing.T) {
	relaytest.NoLeaks(t)
	backends := listen(t, "127.0.0.1:0")
	r := newConnectRig(t, oneLoop(t))
	say(t, r.client, "question")
	r.m.Connect(addrPort(backends), 0)
	relaytest.Receive(t, "the connection", r.connected)
	backend := accept(t, backends)
	hear(t, backend, "question")
	say(t, backend, "answer")
	relaytest.Check(t, backend.CloseWrite())
	wantStream(t, "the client", r.client, "answer", fin)
	relaytest.Check(t, r.client.CloseWrite())
	wantStream(t, "the backend", backend, "", fin)
	r.wantEnd(BackendClosed, 8, 6)
	if r.up.Load() != 8 || r.down.Load() != 6 {
		t.Errorf("counted %d bytes up and %d down", r.up.Load(), r.down.Load())
	}
}

// A connection that fails does not end the relay: another backend can serve it.
func TestConnectFails(t *testing.T) {
	relaytest.NoLeaks(t)
	backends := listen(t, "127.0.0.1:0")
	engine := oneLoop(t)
	keepRunning(t, engine.all[0])
	for _, name := range []string{"at once", "on the loop"} {
		t.Run(name, func(t *testing.T) {
			r := newConnectRig(t, engine)
			want := syscall.ECONNREFUSED
			before := descriptors(t)
			if name == "at once" {
				dead := listen(t, "127.0.0.1:0")
				relaytest.Check(t, dead.Close())
				r.m.Connect(addrPort(dead), 0)
			} else {
				fd, backend := connectTo(t, backends)
				resetNow(t, backend)
				relaytest.Eventually(t, "the reset", func() bool { return netio.PeerStateOfFD(fd).Failed })
				want = syscall.ECONNRESET
				r.m.mu.Lock()
				r.awaitLocked(fd)
				r.m.mu.Unlock()
			}
			if err := relaytest.Receive(t, "the failure", r.failed); !errors.Is(err, want) {
				t.Errorf("failed with %v, want %v", err, want)
			}
			wantDescriptors(t, before)
			if r.m.ClientReset() {
				t.Error("the client counts as reset")
			}
			say(t, r.client, "question")
			r.carryTo(addrPort(backends))
			hear(t, accept(t, backends), "question")
			r.m.Cut(Shutdown)
			r.wantEnd(Shutdown, 8, 0)
		})
	}
}

// Bytes or a FIN that are reported together with the connection itself are not
// reported again.
func TestGreetingThatComesWithTheConnection(t *testing.T) {
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	keepRunning(t, engine.all[0])
	backends := listen(t, "127.0.0.1:0")
	for _, test := range []struct {
		greeting string
		finishes bool
	}{{"hello", false}, {"hello", true}, {"", true}} {
		r := newConnectRig(t, engine)
		fd, backend := connectTo(t, backends)
		say(t, backend, test.greeting)
		if test.finishes {
			relaytest.Check(t, backend.CloseWrite())
		}
		waitAcknowledged(t, backend)
		r.m.mu.Lock()
		r.awaitLocked(fd)
		r.m.mu.Unlock()
		relaytest.Receive(t, "the connection", r.connected)
		hear(t, r.client, test.greeting)
		if test.finishes {
			wantStream(t, "the client", r.client, "", fin)
		}
		r.m.Cut(Shutdown)
		r.wantEnd(Shutdown, 0, int64(len(test.greeting)))
	}
}

// A slow connection is handed over within the time that slowConnect says, and the
// relay continues once it is established.
func TestSlowConnect(t *testing.T) {
	relaytest.NoLeaks(t)
	r := newConnectRig(t, oneLoop(t))
	silent := newSilentServer(t)
	say(t, r.client, "early ")
	began := time.Now()
	r.m.Connect(silent.addr, 0)
	pending := relaytest.Receive(t, "the slow connection", r.slow)
	if took := time.Since(began); took < slowConnect {
		t.Errorf("handed over after %v", took)
	}
	say(t, r.client, "bird")
	waiting, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	conns := make(chan net.Conn, 1)
	go func() { // ends when the connection is established
		conn, err := pending.Await(waiting)
		if err != nil {
			t.Error(err)
		}
		conns <- conn
	}()
	backend := silent.accept()
	r.m.Carry(relaytest.Receive(t, "the connection", conns), r.totals())
	hear(t, backend, "early bird")
	say(t, backend, "answer")
	hear(t, r.client, "answer")
	relaytest.Check(t, r.client.CloseWrite())
	wantStream(t, "the backend", backend, "", fin)
	relaytest.Check(t, backend.Close())
	r.wantEnd(ClientClosed, 10, 6)
	if len(r.connected) > 0 || len(r.failed) > 0 || len(r.slow) > 0 {
		t.Error("the result of Connect is reported twice")
	}
}

// A slow connection stays on the loop as long as the rules say, and moves bytes once
// it is established. The rules are told of a client that was reset.
func TestSlowConnectStays(t *testing.T) {
	for _, end := range []string{"established", "handed over", "client reset"} {
		t.Run(end, func(t *testing.T) {
			relaytest.NoLeaks(t)
			r := newConnectRig(t, oneLoop(t))
			silent := newSilentServer(t)
			calls := make(chan bool, 100)
			var stay atomic.Bool
			stay.Store(true)
			r.inWaits = func(clientReset bool) time.Duration {
				calls <- clientReset
				if clientReset || !stay.Load() {
					return 0
				}
				return time.Millisecond
			}
			say(t, r.client, "early ")
			r.m.Connect(silent.addr, 0)
			for range 3 {
				if relaytest.Receive(t, "a call", calls) {
					t.Error("the client counts as reset")
				}
			}
			go func() { // ends with the test
				for range calls {
				}
			}()
			defer close(calls)
			switch end {
			case "established":
				backend := silent.accept()
				hear(t, backend, "early ")
				say(t, backend, "answer")
				hear(t, r.client, "answer")
				if len(r.slow) > 0 {
					t.Error("the connection was handed over")
				}
			case "handed over":
				stay.Store(false)
				pending := relaytest.Receive(t, "the slow connection", r.slow)
				backend := silent.accept()
				r.carry(pending)
				hear(t, backend, "early ")
			case "client reset":
				resetNow(t, r.client)
				pending := relaytest.Receive(t, "the slow connection", r.slow)
				ended, cancel := context.WithCancel(t.Context())
				cancel()
				_, _ = pending.Await(ended)
			}
			r.m.Cut(Shutdown)
			relaytest.Receive(t, "the end", r.ended)
		})
	}
}

// The wait for a slow connection ends with its context, and leaves no descriptor.
func TestAbandonedSlowConnect(t *testing.T) {
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	keepRunning(t, engine.all[0])
	silent := newSilentServer(t)
	r := newConnectRig(t, engine)
	before := descriptors(t)
	r.m.Connect(silent.addr, 0)
	pending := relaytest.Receive(t, "the slow connection", r.slow)
	cause := errors.New("the client has left")
	waiting, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(20*time.Millisecond, func() { cancel(cause) })
	if conn, err := pending.Await(waiting); err != cause {
		t.Errorf("got %v, %v", conn, err)
	}
	wantDescriptors(t, before)
	r.m.Cut(ClientReset)
	r.wantEnd(ClientReset, 0, 0)
}

// A cut ends a relay that connects, whether the loop waits for the connection, its
// owner does, or it is just being handed over.
func TestCutWhileConnecting(t *testing.T) {
	for _, phase := range []string{"before", "on the loop", "while it is handed over", "handed over"} {
		t.Run(phase, func(t *testing.T) {
			relaytest.NoLeaks(t)
			engine := oneLoop(t)
			keepRunning(t, engine.all[0])
			silent := newSilentServer(t)
			before := descriptors(t)
			for i := range 10 {
				r := newConnectRig(t, engine)
				var pending *Pending
				switch phase {
				case "before":
					r.m.Cut(Shutdown)
				case "while it is handed over":
					time.AfterFunc(slowConnect-time.Millisecond+time.Duration(i)*200*time.Microsecond, func() { r.m.Cut(Shutdown) })
				}
				r.m.Connect(silent.addr, 0)
				switch phase {
				case "on the loop":
					r.m.Cut(Shutdown)
				case "handed over":
					p := relaytest.Receive(t, "the slow connection", r.slow)
					pending = &p
					r.m.Cut(Shutdown)
				}
				r.wantEnd(Shutdown, 0, 0)
				wantStream(t, "the client", r.client, "", rst)
				relaytest.Check(t, r.client.Close())
				if pending == nil && len(r.slow) > 0 {
					p := <-r.slow
					pending = &p
				}
				if pending != nil {
					ended, cancel := context.WithCancel(t.Context())
					cancel()
					if _, err := pending.Await(ended); err != context.Canceled {
						t.Errorf("the wait ended with %v", err)
					}
				}
				if len(r.failed) > 0 || len(r.connected) > 0 {
					t.Error("a result of Connect is reported after the end")
				}
			}
			wantDescriptors(t, before)
		})
	}
}

// A connection that is established while it is handed over is reported once, in
// one way or the other, and moves bytes.
func TestConnectionAtTheHandOver(t *testing.T) {
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	keepRunning(t, engine.all[0])
	backends := listen(t, "127.0.0.1:0")
	before := descriptors(t)
	slow := 0
	for i := range 100 {
		r := newConnectRig(t, engine)
		fd, backend := connectTo(t, backends)
		r.m.mu.Lock() // nothing is reported before both are ready
		r.awaitLocked(fd)
		handOver := async(func() {
			time.Sleep(time.Duration(i%10) * 10 * time.Microsecond)
			r.m.connectIsSlow()
		})
		if i%2 == 0 {
			time.Sleep(100 * time.Microsecond) // the loop or the timer waits for the lock
		}
		r.m.mu.Unlock()
		handOver()
		select {
		case pending := <-r.slow:
			slow++
			r.carry(pending)
		case <-r.connected:
		case <-time.After(relaytest.Limit):
			t.Fatal("no result")
		}
		say(t, r.client, "hello")
		hear(t, backend, "hello")
		say(t, backend, "hi")
		hear(t, r.client, "hi")
		if len(r.slow) > 0 || len(r.connected) > 0 || len(r.failed) > 0 {
			t.Error("the result of Connect is reported twice")
		}
		r.m.Cut(ClientReset)
		r.wantEnd(ClientReset, 5, 2)
		relaytest.Check(t, r.client.Close())
		relaytest.Check(t, backend.Close())
	}
	t.Logf("%d of 100 were handed over", slow)
	wantDescriptors(t, before)
}

// A connection for a relay that is over is closed.
func TestConnectAfterTheEnd(t *testing.T) {
	relaytest.NoLeaks(t)
	backends := listen(t, "127.0.0.1:0")
	r := newConnectRig(t, oneLoop(t))
	r.m.Cut(Shutdown)
	before := descriptors(t)
	r.m.Connect(addrPort(backends), 0)
	backend := accept(t, backends)
	wantStream(t, "the backend", backend, "", fin)
	r.wantEnd(Shutdown, 0, 0)
	relaytest.Check(t, backend.Close())
	wantDescriptors(t, before)
	if len(r.connected) > 0 || len(r.failed) > 0 || len(r.slow) > 0 {
		t.Error("the result of Connect is reported after the end")
	}
}
