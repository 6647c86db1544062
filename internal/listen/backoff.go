package listen

import (
	"net/netip"
	"sync"
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

// failureLog logs the first failure and the recovery of a socket. Any number of
// goroutines may use it.
type failureLog struct {
	at        netip.AddrPort // not changed; as are log, failed and recovered
	log       func() *zap.Logger
	failed    string // message of the first failure
	recovered string // message of the recovery

	mu           sync.Mutex // guards the fields below
	logged       bool       // the failure, so the recovery must be logged too
	lastLoggedAt time.Time
}

// failure logs err, unless a failure was logged recently.
func (l *failureLog) failure(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.logged && (l.lastLoggedAt.IsZero() || time.Since(l.lastLoggedAt) >= failureLogInterval) {
		l.log().Error(l.failed, zap.Stringer("address", l.at), zap.Error(err))
		l.logged, l.lastLoggedAt = true, time.Now()
	}
}

// success logs the recovery if the failure was logged.
func (l *failureLog) success() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.logged {
		l.log().Info(l.recovered, zap.Stringer("address", l.at))
		l.logged = false
	}
}

// backoff pauses a goroutine of a socket after errors, and logs the first failure and the
// recovery.
type backoff struct {
	failures *failureLog
	closed   <-chan struct{} // ends a pause
	pause    time.Duration   // the last one; 0 after a success
}

// failure logs err, see [failureLog], and pauses. It returns false if the socket was
// closed.
func (b *backoff) failure(err error) bool {
	b.failures.failure(err)
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

// success resets the pause after a failure.
func (b *backoff) success() {
	if b.pause != 0 {
		b.pause = 0
		b.failures.success()
	}
}
