package stream

import (
	"net"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A reset does not wait for the acknowledgement of a side that was reset itself,
// also if that side had finished before, so that it is not read any more.
func TestResetOfASideThatIsWaitedFor(t *testing.T) {
	forEachMover(t, func(t *testing.T, k kind) {
		r := newRig(t, k, setup{buffers: 64 << 10})
		relaytest.Check(t, r.client.CloseWrite())
		wantStream(t, "the backend", r.backend, "", fin)
		fillUntil(t, r.backend, func() bool { return unacknowledgedByClient(r) > 0 })
		resetNow(t, r.backend)
		time.Sleep(20 * time.Millisecond)
		r.wantRunning()
		resetNow(t, r.client)
		if end := r.end(); end.Reason != BackendReset {
			t.Errorf("ended as %+v", end)
		}
	})
}

// unacknowledgedByClient returns how many bytes the relay has written to the client
// that it has not acknowledged.
func unacknowledgedByClient(r *rig) int {
	if m, ok := r.mover.(*loopMover); ok {
		m.mu.Lock()
		defer m.mu.Unlock()
		n, _ := netio.UnacknowledgedFD(m.sockets[ClientSide].fd)
		return n
	}
	n, _ := netio.Unacknowledged(r.clientFar)
	return n
}

// fillUntil sends until the receive buffer of the other test's end is full, which
// shows in bytes that stay unacknowledged for longer than an acknowledgement may be
// delayed.
func fillUntil(t *testing.T, conn *net.TCPConn, unacknowledged func() bool) {
	t.Helper()
	for piece := text(4 << 10); ; {
		say(t, conn, piece)
		pause := 5 * time.Millisecond
		for unacknowledged() {
			if pause > 300*time.Millisecond {
				return
			}
			time.Sleep(pause)
			pause *= 2
		}
		time.Sleep(time.Millisecond)
	}
}
