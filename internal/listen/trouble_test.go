package listen

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// An episode is told once, its end too, and a socket that fails again and again
// does not fill the log.
func TestTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts, logs := observed()
		closed := make(chan struct{})
		trouble := trouble{at: netip.MustParseAddrPort("127.0.0.1:1"), closed: closed, failed: "failed", again: "again"}
		listeners := listeners[*TCPListener]{last: opts.Log}
		trouble.log = listeners.log
		want := func(failed, again int) {
			t.Helper()
			if f, a := logs.FilterMessage("failed").Len(), logs.FilterMessage("again").Len(); f != failed || a != again {
				t.Fatalf("%d and %d lines, want %d and %d", f, a, failed, again)
			}
		}
		waited := func() time.Duration {
			start := time.Now()
			trouble.wait(errors.New("test"))
			return time.Since(start)
		}
		trouble.over()
		want(0, 0)
		for _, pause := range []time.Duration{5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000} {
			if got := waited(); got != pause*time.Millisecond {
				t.Errorf("waited %v, want %v ms", got, int(pause))
			}
		}
		want(1, 0)
		trouble.over()
		want(1, 1)
		trouble.lastTold = time.Now()
		for range 200 { // one fails, one does not
			if got := waited(); got != firstPause {
				t.Errorf("waited %v after a success", got)
			}
			trouble.over()
		}
		want(1, 1)
		for time.Since(trouble.lastTold) < toldEvery {
			waited()
		}
		waited()
		want(2, 1)
		trouble.over()
		want(2, 2)
		close(closed)
		if got := waited(); got != 0 {
			t.Errorf("waited %v for a socket that is closed", got)
		}
	})
}
