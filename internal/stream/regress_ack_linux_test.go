package stream

import (
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
		piece := make([]byte, 4<<10)
		for { // until the client's receive buffer is full
			say(t, r.backend, string(piece))
			time.Sleep(5 * time.Millisecond)
			if unacknowledgedByClient(r) > 0 {
				break
			}
		}
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
