package listen

import (
	"net/netip"
	"time"

	"go.uber.org/zap"
)

// Pauses after an error of a socket: the system lacks something, descriptors or
// memory, that only time brings back.
const (
	firstPause = 5 * time.Millisecond
	maxPause   = time.Second
)

// toldEvery bounds the lines of a socket that fails again and again, as it does
// while clients leave one by one and each makes room for another.
const toldEvery = 10 * time.Second

// trouble is how a socket's goroutine waits out its errors.
type trouble struct {
	at       netip.AddrPort
	log      func() *zap.Logger
	closed   <-chan struct{}
	failed   string        // message of the beginning
	again    string        // message of the end
	pause    time.Duration // the last; zero while all is well
	told     bool          // the beginning was, so the end must be
	lastTold time.Time
}

// wait is called after an error.
func (t *trouble) wait(err error) {
	if !t.told && (t.lastTold.IsZero() || time.Since(t.lastTold) >= toldEvery) {
		t.log().Error(t.failed, zap.Stringer("address", t.at), zap.Error(err))
		t.told, t.lastTold = true, time.Now()
	}
	t.pause = min(max(firstPause, 2*t.pause), maxPause)
	timer := time.NewTimer(t.pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.closed:
	}
}

// over is called after a success.
func (t *trouble) over() {
	if t.pause == 0 {
		return
	}
	t.pause = 0
	if t.told {
		t.log().Info(t.again, zap.Stringer("address", t.at))
		t.told = false
	}
}
