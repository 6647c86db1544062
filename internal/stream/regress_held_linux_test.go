package stream

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Bytes that are held for a side that was reset are dropped at once, with their
// buffer and pipe, although the relay lasts until the other side has acknowledged
// what precedes the reset.
func TestHeldBytesForASideThatWasReset(t *testing.T) {
	engine := NewEngine()
	if engine == nil {
		t.Skip("event loops are switched off")
	}
	relaytest.NoLeaks(t)
	loops := kind{name: "loops", new: func(c Client, rules Rules, w *Wheel) Mover { return engine.NewMover(c, rules, w) }}
	r := newRig(t, loops, setup{buffers: 64 << 10, delay: true})
	m := r.mover.(*loopMover)
	m.loop.pipes.off = true // or the pipe would be released with what it holds
	r.start()
	locked := func(f func() bool) func() bool {
		return func() bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			return f()
		}
	}
	filled := make([]byte, 32<<20)
	_ = r.backend.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := r.backend.Write(filled); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the client took everything")
	}
	relaytest.Eventually(t, "held bytes for the client", locked(func() bool { return m.flows[BackendSide].bytesHeld() > 0 }))
	unacknowledged := func() int { n, _ := netio.UnacknowledgedFD(m.sockets[BackendSide].fd); return n }
	for { // until the backend's receive buffer is full
		say(t, r.client, string(filled[:4<<10]))
		time.Sleep(10 * time.Millisecond)
		if locked(func() bool { return unacknowledged() > 0 })() {
			break
		}
	}
	relaytest.Check(t, r.client.SetLinger(0))
	relaytest.Check(t, r.client.Close())
	relaytest.Eventually(t, "the reset to wait", locked(func() bool { return m.ends.flows[ClientSide] == flushing }))
	m.mu.Lock()
	if n := m.flows[BackendSide].bytesHeld(); n > 0 {
		t.Errorf("%d bytes are held in state %v", n, m.ends.flows[BackendSide])
	}
	m.mu.Unlock()
	if _, how := readToEnd(r.backend, 64<<10, 0); how != rst {
		t.Errorf("the backend received %s", how)
	}
	if end := r.end(); end.Reason != ClientReset {
		t.Errorf("ended as %+v", end)
	}
}
