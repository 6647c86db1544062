package listen

import (
	"net/netip"
	"time"

	"go.uber.org/zap"
)

// Pauses after socket errors. Such errors mean that the system has run out of
// descriptors or memory, so retrying helps only after a while.
const (
	firstPause = 5 * time.Millisecond
	maxPause   = time.Second
)

// failureLogInterval is the least time between two log lines about failures of
// one socket. Without it, a socket at the descriptor limit would log a failure and
// a recovery for each client that leaves.
const failureLogInterval = 10 * time.Second

// backoff pauses a socket's goroutine after errors, and logs the first failure
// and the recovery.
type backoff struct {
	at        netip.AddrPort
	log       func() *zap.Logger
	closed    <-chan struct{} // ends a pause
	failed    string          // message of the first failure
	recovered string          // message of the recovery

	pause        time.Duration // the last one; 0 after a success
	logged       bool          // the failure, so the recovery must be logged too
	lastLoggedAt time.Time
}

// failure logs err, unless a failure was logged recently, and pauses. It returns
// false if the socket was closed.
func (b *backoff) failure(err error) bool {
	if !b.logged && (b.lastLoggedAt.IsZero() || time.Since(b.lastLoggedAt) >= failureLogInterval) {
		b.log().Error(b.failed, zap.Stringer("address", b.at), zap.Error(err))
		b.logged, b.lastLoggedAt = true, time.Now()
	}
	b.pause = min(max(firstPause, 2*b.pause), maxPause)
	timer := time.NewTimer(b.pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-b.closed:
		return false
	}
}

// success resets the pause and logs the recovery if the failure was logged.
func (b *backoff) success() {
	if b.pause == 0 {
		return
	}
	b.pause = 0
	if b.logged {
		b.log().Info(b.recovered, zap.Stringer("address", b.at))
		b.logged = false
	}
}
