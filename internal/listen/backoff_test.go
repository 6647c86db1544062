package listen

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// A failure and its recovery are logged once each. A socket that fails again and
// again does not fill the log.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts, logs := observed()
		closed := make(chan struct{})
		listeners := listeners[*TCPListener]{last: opts.Log}
		failures := &failureLog{at: netip.MustParseAddrPort("127.0.0.1:1"), log: listeners.log, failed: "failed", recovered: "recovered"}
		backoff := backoff{failures: failures, closed: closed}
		want := func(failed, recovered int) {
			t.Helper()
			if f, r := logs.FilterMessage("failed").Len(), logs.FilterMessage("recovered").Len(); f != failed || r != recovered {
				t.Fatalf("%d failures and %d recoveries logged, want %d and %d", f, r, failed, recovered)
			}
		}
		fail := func() time.Duration {
			start := time.Now()
			backoff.failure(errors.New("test"))
			return time.Since(start)
		}
		backoff.success()
		want(0, 0)
		for _, pause := range []time.Duration{5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000} {
			if got := fail(); got != pause*time.Millisecond {
				t.Errorf("waited %v, want %v ms", got, int(pause))
			}
		}
		want(1, 0)
		backoff.success()
		want(1, 1)
		failures.lastLoggedAt = time.Now()
		for range 200 { // failures and successes alternate
			if got := fail(); got != firstPause {
				t.Errorf("waited %v after a success", got)
			}
			backoff.success()
		}
		want(1, 1)
		for time.Since(failures.lastLoggedAt) < failureLogInterval {
			fail()
		}
		fail()
		want(2, 1)
		backoff.success()
		want(2, 2)
		close(closed)
		if got := fail(); got != 0 {
			t.Errorf("waited %v for a closed socket", got)
		}
	})
}
