package stream

import (
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Bulk both ways, with readers that stall, arrives complete, spliced or copied. The
// pipe is closed at the end of the loop.
func TestBulk(t *testing.T) {
	const size = 8 << 20
	for name, disable := range map[string]string{"spliced": "", "copied": "splice"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("RELAY_DISABLE", disable)
			relaytest.NoLeaks(t)
			before, pipes := openFiles(t)
			t.Cleanup(func() { // after the end of the loop, whose cleanup is registered later
				relaytest.Eventually(t, "all descriptors to be closed", func() bool {
					all, now := openFiles(t)
					return all <= before && now <= pipes
				})
			})
			engine := oneLoop(t)
			keepRunning(t, engine.all[0])
			r := newLoopRig(t, engine, setup{})
			say(t, r.client, "hello")
			hear(t, r.backend, "hello")
			up := relaytest.Transfer(r.client, r.backend, size, true)
			down := relaytest.Transfer(r.backend, r.client, size+1, true)
			wantDelivered(t, up, down)
			if end := r.end(); end.BytesUp != size+5 || end.BytesDown != size+1 || end.Reason != ClientClosed && end.Reason != BackendClosed {
				t.Errorf("ended as %+v", end)
			}
			if r.up.Load() != size+5 || r.down.Load() != size+1 {
				t.Errorf("counted %d bytes up and %d down", r.up.Load(), r.down.Load())
			}
			if _, now := openFiles(t); (now > pipes) != (disable == "") {
				t.Errorf("%d descriptors of pipes are open, %d before", now, pipes)
			}
			relaytest.Check(t, r.client.Close())
			relaytest.Check(t, r.backend.Close())
		})
	}
}

// All relays of a loop share one pipe. Those that are blocked need none, and hold
// nothing: the other ones are spliced all the same, and no bytes are lost or mixed.
func TestBlockedRelaysNeedNoPipe(t *testing.T) {
	t.Setenv("RELAY_DISABLE", "")
	relaytest.NoLeaks(t)
	const size, stalled, flows = 16 << 20, 6, 4 // size: much more than all buffers hold
	engine := oneLoop(t)
	keepRunning(t, engine.all[0])
	_, pipes := openFiles(t)
	var rigs []*loopRig
	var sending []func()
	for i := range stalled {
		r := newLoopRig(t, engine, setup{})
		rigs = append(rigs, r)
		sending = append(sending, async(func() { // ends with the transfer
			say(t, r.client, randomText(size+i))
			relaytest.Check(t, r.client.CloseWrite())
		}))
	}
	for _, r := range rigs {
		relaytest.Eventually(t, "the direction to be blocked", func() bool { return r.flow(ClientSide) == blocked })
		if up, _ := r.held(); up > netio.BufferSize {
			t.Errorf("holds %d bytes", up)
		}
	}
	for range flows {
		r := newLoopRig(t, engine, setup{})
		wantDelivered(t, relaytest.Transfer(r.client, r.backend, size, true), relaytest.Transfer(r.backend, r.client, size, true))
		if end := r.end(); end.BytesUp != size || end.BytesDown != size {
			t.Errorf("ended as %+v", end)
		}
	}
	if _, now := openFiles(t); now-pipes != 2 {
		t.Errorf("%d descriptors of pipes are open, want those of one pipe", now-pipes)
	}
	for i, r := range rigs {
		wantStallingStream(t, "the backend", r.backend, nil, randomText(size+i))
		sending[i]()
		relaytest.Check(t, r.backend.CloseWrite())
		r.wantEnd(ClientClosed, int64(size+i), 0)
	}
}

// Bytes that a sink does not take although it had room are moved from the pipe to
// memory, and end like all that is held: they arrive before what follows them and
// before a reset of their source, and are dropped if their sink is lost.
func TestPipeIsEmptiedOfWhatIsNotTaken(t *testing.T) {
	for _, then := range []string{"more and a FIN", "reset by the source", "reset by the sink"} {
		t.Run(then, func(t *testing.T) {
			t.Setenv("RELAY_DISABLE", "")
			relaytest.NoLeaks(t)
			r := newLoopRig(t, oneLoop(t), setup{})
			say(t, r.client, "hello")
			hear(t, r.backend, "hello")
			p := openPipe(t)
			defer p.close()
			want := randomText(200_000)
			n, err := unix.Write(p.Write, []byte(want))
			relaytest.Check(t, err)
			before := 0
			r.m.mu.Lock()
			for full := false; !full; { // nothing reads from the backend's end
				n, errno := netio.WriteNonblock(r.m.sockets[BackendSide].fd, make([]byte, 64<<10))
				before += n
				full = errno == syscall.EAGAIN
			}
			r.m.emptyPipeLocked(ClientSide, p, n)
			held, flow, left := string(r.m.flows[ClientSide].held), r.m.ends.flows[ClientSide], p.bytes
			r.m.mu.Unlock()
			if held != want || flow != blocked || left > 0 {
				t.Fatalf("holds %d bytes, want %d; the direction is in state %d; %d bytes are in the pipe", len(held), len(want), flow, left)
			}
			want = string(make([]byte, before)) + want
			switch then {
			case "more and a FIN":
				say(t, r.client, "more")
				relaytest.Check(t, r.client.CloseWrite())
				wantStream(t, "the backend", r.backend, want+"more", fin)
				relaytest.Check(t, r.backend.CloseWrite())
				r.wantEnd(ClientClosed, int64(len(want)-before+len("hellomore")), 0)
			case "reset by the source":
				resetNow(t, r.client)
				wantStream(t, "the backend", r.backend, want, rst)
				r.wantEnd(ClientReset, int64(len(want)-before+len("hello")), 0)
			case "reset by the sink":
				resetNow(t, r.backend)
				r.wantEnd(BackendReset, 5, 0)
				wantStream(t, "the client", r.client, "", rst)
				if up, _ := r.held(); up > 0 {
					t.Errorf("holds %d bytes for a side that was reset", up)
				}
			}
		})
	}
}

// A relay that panics with bytes in the pipe leaves them to no other relay.
func TestPipeAfterAPanic(t *testing.T) {
	t.Setenv("RELAY_DISABLE", "")
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	keepRunning(t, engine.all[0])
	p := givePipe(t, engine.all[0], 0)
	arm := injectPanic(engine.all[0])
	panics := engine.all[0].inject
	engine.all[0].inject = func(m *loopMover) {
		defer func() {
			if value := recover(); value != nil {
				p.bytes, _ = unix.Write(p.Write, []byte("stale"))
				panic(value)
			}
		}()
		panics(m)
	}
	r := newLoopRig(t, engine, setup{})
	r.mayPanic.Store(true)
	say(t, r.client, "hello")
	hear(t, r.backend, "hello")
	arm(r.m)
	say(t, r.client, "hello")
	relaytest.Receive(t, "the panic", r.panics)
	r.end()

	other := newLoopRig(t, engine, setup{})
	const size = 8 << 20
	wantDelivered(t, relaytest.Transfer(other.client, other.backend, size, true), relaytest.Transfer(other.backend, other.client, 0, true))
	if end := other.end(); end.BytesUp != size || end.BytesDown != 0 {
		t.Errorf("ended as %+v", end)
	}
}

// Nothing can panic between a splice into the pipe and the note of what it holds.
func TestPanicAfterASplice(t *testing.T) {
	t.Setenv("RELAY_DISABLE", "")
	relaytest.NoLeaks(t)
	r := newLoopRig(t, oneLoop(t), setup{})
	say(t, r.client, "hello")
	hear(t, r.backend, "hello")
	p := &pipe{}
	if !p.open() {
		t.Fatal("no pipe")
	}
	defer p.close()
	r.m.mu.Lock()
	wheel := r.m.wheel
	r.m.wheel = nil // panics where it is used
	say(t, r.client, "bytes of this relay")
	relaytest.Eventually(t, "a panic", func() (panicked bool) {
		defer func() { panicked = recover() != nil }()
		r.m.spliceLocked(ClientSide, p, maxPiece)
		return
	})
	r.m.wheel = wheel
	r.m.mu.Unlock()
	if !p.open() {
		t.Fatal("no pipe")
	}
	buf := make([]byte, 100)
	if n, errno := p.ReadNonblock(buf); errno != syscall.EAGAIN {
		t.Errorf("the next relay's pipe holds %q", buf[:n])
	}
}
