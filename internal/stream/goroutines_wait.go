package stream

import (
	"time"

	"github.com/async-relay/caddy-relay/internal/netio"
)

// This file has the waits of a goroutineMover: for the error of a write, for the
// acknowledgement of bytes and for their delivery.

// writeErrorPatience bounds the wait for the other goroutine to record an error
// that its write has returned already. It is reached only if the error was
// returned before the relay began.
const writeErrorPatience = time.Second

// awaitWriteErrorLocked waits until a write error was recorded.
func (m *goroutineMover) awaitWriteErrorLocked() {
	if m.reported == nil {
		m.reported = make(chan struct{})
	}
	reported := m.reported
	m.mu.Unlock()
	defer m.mu.Lock()
	timeout := time.NewTimer(writeErrorPatience)
	defer timeout.Stop()
	select {
	case <-reported:
	case <-m.over:
	case <-timeout.C:
	}
}

// Pauses between checks whether a side has acknowledged all bytes.
const (
	firstAckPause = time.Millisecond // doubles with each check
	maxAckPause   = 100 * time.Millisecond
	// unknownAckDelay is the whole wait on systems that do not tell.
	unknownAckDelay = time.Second
)

// awaitAck waits until a side has acknowledged all bytes, at most for the idle
// timeout, or until the side was reset or the relay is over. The system counts the
// bytes to a side that was reset as not acknowledged for ever. A side without a
// plain socket is not waited for: its close does not drop what was written.
func (m *goroutineMover) awaitAck(side Side) {
	socket := m.socket(side)
	if socket == nil {
		return
	}
	deadline := time.Now().Add(m.wheel.timeout)
	for pause := firstAckPause; ; pause = min(2*pause, maxAckPause) {
		n, known := netio.Unacknowledged(socket)
		if known && n == 0 || netio.PeerStateOf(socket).Reset() {
			return
		}
		if !known {
			pause = unknownAckDelay
		}
		timer := time.NewTimer(min(pause, time.Until(deadline)))
		select {
		case <-timer.C:
		case <-m.over:
			timer.Stop()
			return
		}
		if !known || !time.Now().Before(deadline) {
			return
		}
	}
}

// deliveryPatience is how long a side that cannot be half-closed may take to have
// its last bytes delivered. They are under way: a write that has delivered its
// bytes may not have returned yet. A write that blocks for longer is cut off.
const deliveryPatience = 20 * time.Millisecond

// awaitDelivered waits until no bytes of a source are under way to their sink, at
// most for deliveryPatience, and returns what undelivered does.
func (m *goroutineMover) awaitDelivered(source Side) (sides [2]bool) {
	for deadline := time.Now().Add(deliveryPatience); ; time.Sleep(time.Millisecond) {
		sides = m.undelivered()
		if !sides[source.other()] || !time.Now().Before(deadline) {
			return sides
		}
	}
}

// undelivered returns, by side, whether bytes for it have not reached its socket:
// they are held, or unread.
func (m *goroutineMover) undelivered() (sides [2]bool) {
	for _, sink := range []Side{ClientSide, BackendSide} {
		source := sink.other()
		sides[sink] = m.held[source].Load()
		if socket := m.socket(source); socket != nil {
			sides[sink] = sides[sink] || some(netio.Unread(socket))
		}
	}
	return sides
}

// owed returns, by side, whether bytes for it are left: undelivered, or delivered
// to its socket and not acknowledged, which after an idle timeout means that it
// does not read.
func (m *goroutineMover) owed() (owed [2]bool) {
	owed = m.undelivered()
	for _, sink := range []Side{ClientSide, BackendSide} {
		if socket := m.socket(sink); socket != nil {
			owed[sink] = owed[sink] || some(netio.Unacknowledged(socket))
		}
	}
	return owed
}

func some(n int, known bool) bool { return known && n > 0 }
