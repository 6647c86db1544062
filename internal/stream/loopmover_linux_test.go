package stream

import (
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A mover knows before Carry whether its client was reset; a client that has
// finished was not.
func TestClientReset(t *testing.T) {
	variants(t, func(t *testing.T, k kind, s setup) {
		s.delay = true
		r := newRig(t, k, s)
		say(t, r.client, "question")
		relaytest.Check(t, r.client.CloseWrite())
		waitAcknowledged(t, r.client)
		if r.mover.ClientReset() {
			t.Error("a client that has finished counts as reset")
		}
		resetNow(t, r.client)
		relaytest.Eventually(t, "the reset", r.mover.ClientReset)
		r.mover.Cut(ClientReset)
		r.wantEnd(ClientReset, 0, 0)
		if !r.mover.ClientReset() {
			t.Error("a client that was cut does not count as reset")
		}
		r.start() // for the end of Carry
	})
}

// Early bytes go to the backend first, also a lot of them to one that does not
// read, and those of a header are not counted.
func TestEarlyBytes(t *testing.T) {
	variants(t, func(t *testing.T, k kind, s setup) {
		const header = "PROXY TCP4\r\n"
		newClient := s.client
		if newClient == nil {
			newClient = plainClient
		}
		s.client = func(conn *net.TCPConn) Client {
			client := newClient(conn)
			client.HeaderLen = len(header)
			return client
		}
		early := text(6 << 20)
		s.early = header + early
		r := newRig(t, k, s)
		say(t, r.client, "and more")
		relaytest.Check(t, r.client.CloseWrite())
		time.Sleep(10 * time.Millisecond) // which fills what is between
		wantStream(t, "the backend", r.backend, header+early+"and more", fin)
		relaytest.Check(t, r.backend.CloseWrite())
		wantStream(t, "the client", r.client, "", fin)
		r.wantEnd(ClientClosed, int64(len(early)+8), 0)
		if got := r.up.Load(); got != uint64(len(early)+8) {
			t.Errorf("counted %d bytes", got)
		}
	})
}

// A reset that follows the FIN of the same side is noticed. What the other side
// still sends is discarded until it finishes.
func TestResetAfterAFIN(t *testing.T) {
	for _, from := range []Side{ClientSide, BackendSide} {
		variants(t, func(t *testing.T, k kind, s setup) {
			r := newRig(t, k, s)
			goes, stays := r.side(from), r.side(from.other())
			relaytest.Check(t, goes.CloseWrite())
			wantStream(t, "the side that stays", stays, "", fin)
			say(t, stays, "still here")
			hear(t, goes, "still here")
			resetNow(t, goes)
			say(t, stays, strings.Repeat("discarded", 1_000_000)) // more than all buffers hold
			r.wantRunning()
			relaytest.Check(t, stays.CloseWrite())
			if end := r.end(); end.Reason != from.reset() {
				t.Errorf("ended as %+v", end)
			}
		})
	}
}

// A mover on a loop notices such a reset at once, though it neither reads from the
// side nor writes to it.
func TestResetAfterAFINIsAnEvent(t *testing.T) {
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	for _, from := range []Side{ClientSide, BackendSide} {
		r := newLoopRig(t, engine, setup{})
		goes, stays := r.side(from), r.side(from.other())
		relaytest.Check(t, goes.CloseWrite())
		wantStream(t, "the side that stays", stays, "", fin)
		resetNow(t, goes)
		relaytest.Eventually(t, "the loss of the side", func() bool { return r.flow(from.other()) == discarding })
	}
}

// A reset that comes while its side is not read, because the other side has no room,
// follows the bytes before it.
func TestResetWhileBlocked(t *testing.T) {
	for _, from := range []Side{ClientSide, BackendSide} {
		variants(t, func(t *testing.T, k kind, s setup) {
			r := newRig(t, k, s)
			goes, stays := r.side(from), r.side(from.other())
			sendUntilFull(t, goes)
			resetNow(t, goes)
			// What the side had not acknowledged is lost with the reset.
			if got, how := readToEnd(stays, 64<<10, 0); how != rst || len(got) == 0 || strings.Trim(string(got), "\x00") != "" {
				t.Errorf("the other side received %d bytes and %s", len(got), how)
			}
			if end := r.end(); end.Reason != from.reset() {
				t.Errorf("ended as %+v", end)
			}
		})
	}
}

// A reset by the side that has no room ends the relay.
func TestResetByTheSideThatBlocks(t *testing.T) {
	for _, from := range []Side{ClientSide, BackendSide} {
		variants(t, func(t *testing.T, k kind, s setup) {
			r := newRig(t, k, s)
			goes, stays := r.side(from), r.side(from.other())
			sendUntilFull(t, stays)
			resetNow(t, goes)
			if end := r.end(); end.Reason != from.reset() {
				t.Errorf("ended as %+v", end)
			}
			wantStream(t, "the other side", stays, "", rst)
		})
	}
}

// Bytes that are held for a side are dropped when a read notices its reset, though
// the relay continues until the other side has acknowledged all bytes.
func TestHeldBytesOfALostSideAreDropped(t *testing.T) {
	for name, disable := range map[string]string{"spliced": "", "copied": "splice"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("RELAY_DISABLE", disable)
			relaytest.NoLeaks(t)
			const size = 250_000
			engine := oneLoop(t)
			for _, from := range []Side{ClientSide, BackendSide} {
				r := newLoopRig(t, engine, setup{buffers: 64 << 10})
				goes, stays := r.side(from), r.side(from.other())
				say(t, r.client, "hello") // after which the relay has both sockets
				hear(t, r.backend, "hello")
				// The relay's socket takes more bytes than the side that stays.
				r.m.mu.Lock()
				netio.SetOption(r.m.sockets[from.other()].fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
				r.m.flows[from.other()].bulk = largeReads // so that it is spliced from its first bytes
				r.m.mu.Unlock()
				sendUntilFull(t, stays)
				say(t, goes, text(size)) // more than stays has room for
				waitAcknowledged(t, goes)
				relaytest.Eventually(t, "a blocked flow and one that is not", func() bool {
					sendUntilFull(t, stays)
					return r.flow(from.other()) == blocked && r.flow(from) == flowing
				})
				resetNow(t, goes)
				relaytest.Eventually(t, "the reset to be noticed", func() bool { return r.flow(from) == flushing })
				if up, down := r.held(); up > 0 || down > 0 {
					t.Errorf("holds %d and %d bytes for a side that was reset", up, down)
				}
				wantStream(t, "the other side", stays, text(size), rst)
				if end := r.end(); end.Reason != from.reset() {
					t.Errorf("ended as %+v", end)
				}
			}
		})
	}
}

// A FIN that follows the bytes of a blocked flow arrives after all of them.
func TestFINBehindABlockedFlow(t *testing.T) {
	variants(t, func(t *testing.T, k kind, s setup) {
		const size = 16 << 20
		r := newRig(t, k, s)
		wantDelivered(t, relaytest.Transfer(r.client, r.backend, size, true))
		relaytest.Check(t, r.backend.CloseWrite())
		wantStream(t, "the client", r.client, "", fin)
		r.wantEnd(ClientClosed, size, 0)
	})
}

// everything is all events that a socket can have.
const everything = netio.Readable | netio.Writable | netio.Urgent | netio.PeerFinished | netio.Failed | netio.HungUp

// Events of a socket that has left its loop do not concern the relay, which may
// have another socket by now, or be over.
func TestStaleEvents(t *testing.T) {
	relaytest.NoLeaks(t)
	r := newConnectRig(t, oneLoop(t))
	silent := newSilentServer(t)
	w := &workspace{buf: netio.GetBuffer()}
	defer w.buf.Free()

	r.m.Connect(silent.addr, 0)
	r.m.mu.Lock()
	old := r.m.sockets[BackendSide].token
	r.m.mu.Unlock()
	pending := relaytest.Receive(t, "the slow connection", r.slow)
	if old == 0 {
		t.Skip("handed over before the test has looked")
	}
	say(t, r.client, "question")
	r.m.handle(old, everything, w)
	backend := silent.accept()
	r.carry(pending)
	hear(t, backend, "question")
	r.m.handle(old, everything, w)
	say(t, r.client, "another")
	hear(t, backend, "another")
	r.m.mu.Lock()
	if s := r.m.sockets[BackendSide]; s.token == old || s.failed || s.closed || s.finished {
		t.Errorf("an event of the first socket has reached the second: %+v", s)
	}
	now := r.m.sockets[BackendSide].token
	r.m.mu.Unlock()
	r.m.Cut(Shutdown)
	r.m.handle(now, everything, w)
	r.wantEnd(Shutdown, 15, 0)
}

// A loop that cannot watch the sockets of a relay resets both sides and reports
// the error. Other relays of the loop continue.
func TestLoopThatCannotWatch(t *testing.T) {
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	calm := newLoopRig(t, engine, setup{})
	say(t, calm.backend, "hello") // which only the loop moves
	hear(t, calm.client, "hello")
	before := descriptors(t)

	r := newLoopRig(t, engine, setup{delay: true})
	poller := engine.all[0].poller
	slot, err := poller.Join(r.m)
	relaytest.Check(t, err)
	_, err = poller.Watch(slot, 0, r.m.sockets[ClientSide].fd, netio.Readable) // so that a second Watch fails
	relaytest.Check(t, err)
	say(t, r.client, "lost")
	r.start()
	if end := r.end(); end.Reason != Exhausted || end.Err == nil {
		t.Errorf("ended as %+v", end)
	}
	poller.Leave(slot)
	if _, how := readToEnd(r.backend, 100, 0); how != rst {
		t.Errorf("the backend received %s", how)
	}
	wantStream(t, "the client", r.client, "", rst)
	relaytest.Check(t, r.client.Close())
	relaytest.Check(t, r.backend.Close())
	wantDescriptors(t, before)

	say(t, calm.client, "calm")
	hear(t, calm.backend, "calm")
	again := newLoopRig(t, engine, setup{})
	say(t, again.backend, "again")
	hear(t, again.client, "again")
	if n := poller.Owners(); n != 2 {
		t.Errorf("%d relays are on the loop", n)
	}
}

// exhaust leaves this process so many free descriptors until restore is called.
func exhaust(t *testing.T, free int) (restore func()) {
	t.Helper()
	// The lowest free numbers are those that count: the limit bounds the numbers.
	var fillers []int
	fd, err := unix.Dup(0)
	relaytest.Check(t, err)
	fillers = append(fillers, fd)
	for range 200 {
		fd, err := unix.Dup(0)
		relaytest.Check(t, err)
		fillers = append(fillers, fd)
	}
	lift := relaytest.LimitDescriptors(t, fillers[len(fillers)-1]+1)
	for _, fd := range fillers[len(fillers)-free:] {
		netio.CloseDescriptor(fd)
	}
	fillers = fillers[:len(fillers)-free]
	return func() {
		lift()
		for _, fd := range fillers {
			netio.CloseDescriptor(fd)
		}
	}
}

// Without a descriptor for the loop, a relay ends with the error, and both sides
// are reset.
func TestNoDescriptorForTheLoop(t *testing.T) {
	if !relaytest.InChild(t) {
		return
	}
	r := newConnectRig(t, oneLoop(t))
	backends := listen(t, "127.0.0.1:0")
	say(t, r.client, "question")
	waitAcknowledged(t, r.client)
	restore := exhaust(t, 1) // the connection takes it
	r.m.Connect(addrPort(backends), 0)
	end := r.end()
	restore()
	relaytest.Receive(t, "the connection", r.connected)
	if end.Reason != Exhausted || netio.Classify(end.Err) != netio.Exhausted {
		t.Errorf("ended as %+v", end)
	}
	wantStream(t, "the client", r.client, "", rst)
	wantStream(t, "the backend", accept(t, backends), "question", rst)
}

// Nor is there one for the connection itself: that fails, and the relay may have
// another one later.
func TestNoDescriptorForTheConnection(t *testing.T) {
	if !relaytest.InChild(t) {
		return
	}
	r := newConnectRig(t, oneLoop(t))
	backends := listen(t, "127.0.0.1:0")
	restore := exhaust(t, 0)
	r.m.Connect(addrPort(backends), 0)
	err := relaytest.Receive(t, "the failure", r.failed)
	restore()
	if netio.Classify(err) != netio.Exhausted {
		t.Errorf("failed with %v", err)
	}
	r.carryTo(addrPort(backends))
	backend := accept(t, backends)
	say(t, r.client, "question")
	hear(t, backend, "question")
}

// A backend that cannot be detached is reset, as is the client.
func TestNoDescriptorForTheBackend(t *testing.T) {
	if !relaytest.InChild(t) {
		return
	}
	r := newLoopRig(t, oneLoop(t), setup{delay: true})
	restore := exhaust(t, 0)
	r.start()
	end := r.end()
	restore()
	if end.Reason != Exhausted || netio.Classify(end.Err) != netio.Exhausted {
		t.Errorf("ended as %+v", end)
	}
	wantStream(t, "the client", r.client, "", rst)
	wantStream(t, "the backend", r.backend, "", rst)
}

// injectPanic has a loop panic at the next event of a relay, once it is armed.
func injectPanic(l *loop) (arm func(*loopMover)) {
	var of atomic.Pointer[loopMover]
	l.inject = func(m *loopMover) {
		if of.CompareAndSwap(m, nil) {
			panic("injected")
		}
	}
	return func(m *loopMover) { of.Store(m) }
}

// A panic on a loop ends the relay that it concerns with resets. The loop continues
// with the other relays.
func TestPanicOnALoopEndsOneRelay(t *testing.T) {
	t.Setenv("RELAY_DISABLE", "")
	for _, name := range []string{"plain", "half-closed"} {
		t.Run(name, func(t *testing.T) {
			relaytest.NoLeaks(t)
			engine := oneLoop(t)
			arm := injectPanic(engine.all[0])
			calm := newLoopRig(t, engine, setup{})
			say(t, calm.backend, "hello")
			hear(t, calm.client, "hello")
			before := descriptors(t)
			r := newLoopRig(t, engine, setup{})
			r.mayPanic.Store(true)
			say(t, r.client, "hello")
			hear(t, r.backend, "hello")

			if name == "half-closed" {
				relaytest.Check(t, r.client.CloseWrite())
				wantStream(t, "the backend", r.backend, "", fin)
			}
			arm(r.m)
			say(t, r.backend, "hello")
			wantStream(t, "the client", r.client, "", rst)
			if name == "plain" {
				wantStream(t, "the backend", r.backend, "", rst)
			}
			if value := relaytest.Receive(t, "the panic", r.panics); value != "injected" {
				t.Errorf("panicked with %v", value)
			}
			if end := r.end(); end.Reason != Panicked || end.BytesDown != 0 {
				t.Errorf("ended as %+v", end)
			}
			relaytest.Check(t, r.client.Close())
			relaytest.Check(t, r.backend.Close())
			wantDescriptors(t, before)

			say(t, calm.backend, "calm")
			hear(t, calm.client, "calm")
			again := newLoopRig(t, engine, setup{})
			say(t, again.backend, "again")
			hear(t, again.client, "again")
			if len(r.panics) > 0 {
				t.Error("panicked again")
			}
		})
	}
}

// Nothing is moved after a panic, also if another worker has an event of the relay at
// that moment: bytes may be missing before those that it would move.
func TestPanicWhileAnotherWorkerWaits(t *testing.T) {
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	engine.all[0].inject = func(*loopMover) { panic("injected") }
	for range 20 {
		r := newLoopRig(t, engine, setup{delay: true})
		r.mayPanic.Store(true)
		r.start()
		relaytest.Receive(t, "the first turn", r.carried)
		r.m.mu.Lock()
		token := r.m.sockets[ClientSide].token
		workers := make([]func(), 4)
		for n := range workers {
			workers[n] = async(func() { r.m.handle(token, netio.Writable, nil) })
		}
		// A lock that its waiters could not get for a while is handed from one to the next.
		time.Sleep(5 * time.Millisecond)
		r.m.mu.Unlock()
		r.m.mu.Lock()
		time.Sleep(5 * time.Millisecond)
		r.m.mu.Unlock()
		for _, wait := range workers {
			wait()
		}
		if n := len(r.panics); n != 1 {
			t.Fatalf("%d of %d workers have handled the event", n, len(workers))
		}
		r.wantEnd(Panicked, 0, 0)
		relaytest.Check(t, r.client.Close())
		relaytest.Check(t, r.backend.Close())
	}
}

// A panic while the relay connects leaves nothing behind.
func TestPanicWhileConnecting(t *testing.T) {
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	keepRunning(t, engine.all[0])
	arm := injectPanic(engine.all[0])
	silent := newSilentServer(t)
	before := descriptors(t)
	for range 5 {
		r := newConnectRig(t, engine)
		r.mayPanic.Store(true)
		arm(r.m)
		r.m.Connect(silent.addr, 0)
		r.m.mu.Lock()
		token := r.m.sockets[BackendSide].token
		// From here on the connection is slow when the test says so.
		handedOver := token == 0 || !r.m.connecting.Reset(time.Hour)
		r.m.mu.Unlock()
		if handedOver {
			t.Skip("handed over before the test has looked")
		}
		r.m.handle(token, netio.Writable, nil)
		if value := relaytest.Receive(t, "the panic", r.panics); value != "injected" {
			t.Errorf("panicked with %v", value)
		}
		r.wantEnd(Panicked, 0, 0)
		wantStream(t, "the client", r.client, "", rst)
		relaytest.Check(t, r.client.Close())
		r.m.connectIsSlow() // by a timer that has fired just before
		if len(r.slow) > 0 {
			t.Error("the connection of a relay that is over was handed over")
		}
	}
	wantDescriptors(t, before)
}

// A panic of the rules ends the relay, too, and its descriptors are closed.
func TestRulesPanic(t *testing.T) {
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	keepRunning(t, engine.all[0])
	backends := listen(t, "127.0.0.1:0")
	before := descriptors(t)
	r := newConnectRig(t, engine)
	r.mayPanic.Store(true)
	r.inConnects = func() { panic("in Connected") }
	r.m.Connect(addrPort(backends), 0)
	if value := relaytest.Receive(t, "the panic", r.panics); value != "in Connected" {
		t.Errorf("panicked with %v", value)
	}
	r.wantEnd(Panicked, 0, 0)
	wantStream(t, "the client", r.client, "", rst)
	relaytest.Check(t, r.client.Close())
	wantDescriptors(t, before)
	next, err := net.Dial("tcp", backends.Addr().String())
	relaytest.Check(t, err)
	defer next.Close()
	if first := accept(t, backends); first.RemoteAddr().String() != next.LocalAddr().String() {
		wantStream(t, "the backend, which may have seen the client after a pause of the test", first, "", rst)
	}
}
