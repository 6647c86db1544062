package stream

import (
	"io"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Bulk both ways, with readers that stall, arrives complete, spliced or copied.
// Afterwards all pipes are idle, and after the loop's end they are closed.
func TestBulk(t *testing.T) {
	const size = 8 << 20
	for name, disable := range map[string]string{"spliced": "", "copied": "splice"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("RELAY_DISABLE", disable)
			relaytest.NoLeaks(t)
			engine := oneLoop(t)
			r := newLoopRig(t, engine, setup{})
			say(t, r.client, "hello")
			hear(t, r.backend, "hello")
			before, pipes := openFiles(t)
			up := relaytest.Transfer(r.client, r.backend, size, true)
			down := relaytest.Transfer(r.backend, r.client, size+1, true)
			pool := engine.all[0].pipes
			if disable == "" {
				relaytest.Eventually(t, "a pipe", func() bool { open, _ := pool.count(); return open > 0 })
			}
			wantDelivered(t, up, down)
			if end := r.end(); end.BytesUp != size+5 || end.BytesDown != size+1 || end.Reason != ClientClosed && end.Reason != BackendClosed {
				t.Errorf("ended as %+v", end)
			}
			if r.up.Load() != size+5 || r.down.Load() != size+1 {
				t.Errorf("counted %d bytes up and %d down", r.up.Load(), r.down.Load())
			}
			if open, idle := pool.count(); open != idle || disable != "" && open > 0 {
				t.Errorf("%d pipes are open, %d of them idle", open, idle)
			}
			// Its two sockets are closed, and the loop's epoll instance will be, with the pipes.
			relaytest.Eventually(t, "all descriptors to be closed", func() bool {
				all, now := openFiles(t)
				return all < before && now <= pipes
			})
		})
	}
}

// A flow that has run dry returns its pipe, though its relay continues.
func TestPipeIsReturned(t *testing.T) {
	t.Setenv("RELAY_DISABLE", "")
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	r := newLoopRig(t, engine, setup{})
	for range 3 {
		sent := make(chan error, 1)
		go func() { // ends with the write
			_, err := r.client.Write(make([]byte, 4<<20))
			sent <- err
		}()
		_, err := io.CopyN(io.Discard, r.backend, 4<<20)
		relaytest.Check(t, err)
		relaytest.Check(t, relaytest.Receive(t, "the write", sent))
		relaytest.Eventually(t, "the pipe to be returned", func() bool {
			open, idle := engine.all[0].pipes.count()
			return open == 1 && idle == 1
		})
		say(t, r.backend, "well?")
		hear(t, r.client, "well?")
	}
}

// fillPipe has the client send until the only open pipe of the loop has bytes for
// the backend.
func fillPipe(t *testing.T, r *loopRig) {
	t.Helper()
	relaytest.Eventually(t, "bytes in a pipe", func() bool {
		sendUntilFull(t, r.client)
		open, idle := r.m.loop.pipes.count()
		up, _ := r.held()
		return open == 1 && idle == 0 && up > 0
	})
}

// A relay that ends with bytes in its pipe closes the pipe: no other relay may get
// these bytes.
func TestPipeWithBytesIsClosed(t *testing.T) {
	t.Setenv("RELAY_DISABLE", "")
	relaytest.NoLeaks(t)
	engine := oneLoop(t)
	r := newLoopRig(t, engine, setup{})
	say(t, r.client, "hello")
	hear(t, r.backend, "hello")
	before, pipes := openFiles(t)
	fillPipe(t, r)
	r.mover.Cut(Shutdown)
	r.end()
	wantPipes(t, engine.all[0].pipes, 0, 0)
	relaytest.Eventually(t, "all descriptors to be closed", func() bool {
		all, now := openFiles(t)
		return all < before && now <= pipes
	})
}

// When there are more flows than pipes, the remaining flows are copied, and all
// bytes arrive.
func TestMoreFlowsThanPipes(t *testing.T) {
	t.Setenv("RELAY_DISABLE", "")
	relaytest.NoLeaks(t)
	const size, flows, free = 4 << 20, 8, 2
	engine := oneLoop(t)
	pool := engine.all[0].pipes
	var lent []*pipe // to others than the relays
	for range maxPipes {
		lent = append(lent, pool.get())
	}
	if pool.get() != nil {
		t.Error("got more than the maximum of pipes")
	}
	for _, p := range lent[:free] {
		pool.put(p)
	}
	var rigs []*loopRig
	var transfers []<-chan error
	for range flows {
		r := newLoopRig(t, engine, setup{})
		rigs = append(rigs, r)
		transfers = append(transfers, relaytest.Transfer(r.client, r.backend, size, true), relaytest.Transfer(r.backend, r.client, size, true))
	}
	relaytest.Eventually(t, "the last pipes to be lent", func() bool { _, idle := pool.count(); return idle == 0 })
	wantDelivered(t, transfers...)
	for _, r := range rigs {
		if end := r.end(); end.BytesUp != size || end.BytesDown != size {
			t.Errorf("ended as %+v", end)
		}
	}
	for _, p := range lent[free:] {
		pool.put(p)
	}
	if open, idle := pool.count(); open != idle || open > maxIdlePipes {
		t.Errorf("%d pipes are open, %d of them idle", open, idle)
	}
	pool.trim()
	wantPipes(t, pool, 0, 0)
}
