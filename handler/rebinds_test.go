package handler

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

func newRebindRig(t *testing.T, backends ...string) *udpRig {
	r := newUDPRig(t, backends)
	r.service.rebinds.gap = rebindGap
	return r
}

// A refused session tries the same backend again after the gap. What its client
// sends meanwhile is sent then.
func TestSecondAttemptWaitsForTheGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRebindRig(t, "192.0.2.1:53", "192.0.2.2:53")
		client := new(udpClient)
		r.deliver(1, client, "a")
		r.engine.socket(1).sink.Failed(errRefused)
		r.deliver(1, client, "b")
		time.Sleep(rebindGap - time.Millisecond)
		synctest.Wait()
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 close")
		time.Sleep(time.Millisecond)
		synctest.Wait()
		r.engine.wants(t, "2 open 192.0.2.1:53", "2 < a", "2 < b")
		r.wantStrikes("192.0.2.1:53", 1, upstream.Struck)
		r.engine.socket(2).answer("A")
		client.wants(t, "A")
		r.wantStrikes("192.0.2.1:53", 0, upstream.Up)
	})
}

// A second strike is not delayed: the next backend is tried at once.
func TestNextBackendDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRebindRig(t, "192.0.2.1:53", "192.0.2.2:53")
		r.deliver(1, new(udpClient), "a")
		r.engine.socket(1).sink.Failed(errRefused)
		time.Sleep(rebindGap)
		synctest.Wait()
		r.engine.socket(2).sink.Failed(errRefused)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 close",
			"2 open 192.0.2.1:53", "2 < a", "2 close", "3 open 192.0.2.2:53", "3 < a")
		r.wantStrikes("192.0.2.1:53", 0, upstream.Down)
	})
}

// Other failures are no such gap.
func TestOtherFailuresDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"}, func(o *Options) { o.UDPReplyTimeout = time.Second })
		r.service.rebinds.gap = rebindGap
		r.deliver(1, new(udpClient), "a")
		time.Sleep(time.Second)
		synctest.Wait()
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 close", "2 open 192.0.2.1:53", "2 < a")
	})
}

// A session that begins in the gap of another one's strike is refused too. That is
// no second strike. Later it is.
func TestGapOfOneStrikeCausesNoOther(t *testing.T) {
	for _, test := range []struct {
		after time.Duration
		want  upstream.State
	}{{0, upstream.Struck}, {rebindGap - time.Microsecond, upstream.Struck}, {rebindGap, upstream.Down}} {
		t.Run(fmt.Sprint(test.after), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRebindRig(t, "192.0.2.1:53", "192.0.2.2:53")
				r.deliver(1, new(udpClient), "a")
				r.engine.socket(1).sink.Failed(errRefused)
				time.Sleep(test.after)
				synctest.Wait()
				n := r.engine.opened + 1
				r.deliver(2, new(udpClient), "b")
				r.engine.socket(n).sink.Failed(errRefused)
				if got := r.status("192.0.2.1:53", upstream.UDP).State; got != test.want {
					t.Fatalf("%s after an attempt that began %s after the strike, want %s", got, test.after, test.want)
				}
			})
		})
	}
}

// Sessions that were refused together do not try again together: the first one
// makes a server that binds a new socket for each client refuse the others.
func TestSecondAttemptsAreSpaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const clients = 8
		r := newRebindRig(t, "192.0.2.1:53", "192.0.2.2:53")
		var busyUntil time.Time
		r.engine.onSend = func(s *fakeSocket, _ []byte) error {
			if now := time.Now(); now.Before(busyUntil) {
				go s.sink.Failed(errRefused)
			} else {
				busyUntil = now.Add(rebindSpacing / 2)
			}
			return nil
		}
		for n := range clients {
			r.deliver(n, new(udpClient), "a")
		}
		time.Sleep(10 * rebindGap)
		synctest.Wait()
		for n := range clients {
			if got := r.session(n); got.phase != open || got.attempt.Backend.Text != "192.0.2.1:53" {
				t.Errorf("session %d is on %s in phase %d", n, got.attempt.Backend.Text, got.phase)
			}
		}
		r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 0)
	})
}

// The pause of a crowd ends all the same.
func TestCrowdIsNotDelayedMore(t *testing.T) {
	r := rebinds{gap: rebindGap}
	for range 1000 {
		if got := r.delay(errRefused, time.Second); got < rebindGap || got > rebindGap+maxRebindTurns*rebindSpacing {
			t.Fatalf("a delay of %s", got)
		}
	}
	if got := r.delay(errors.New("another"), time.Second); got != 0 {
		t.Errorf("another error is delayed by %s", got)
	}
}

// A session that ends does not come back after the pause.
func TestPauseEndsWithItsSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRebindRig(t, "192.0.2.1:53", "192.0.2.2:53")
		r.deliver(1, new(udpClient), "a")
		r.engine.socket(1).sink.Failed(errRefused)
		r.session(1).end("test")
		time.Sleep(2 * rebindGap)
		synctest.Wait()
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 close")
	})
}

// A session whose backend is demoted during the pause does not wait for its end.
func TestPauseEndsWithADemotion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRebindRig(t, "192.0.2.1:53", "192.0.2.2:53")
		r.deliver(1, new(udpClient), "a")
		r.engine.socket(1).sink.Failed(errRefused)
		time.Sleep(rebindGap - time.Millisecond)
		r.deliver(2, new(udpClient), "b")
		r.engine.socket(2).sink.Failed(errRefused) // in the gap of the strike
		time.Sleep(time.Millisecond)
		synctest.Wait()
		r.engine.socket(3).sink.Failed(errRefused) // the second strike, of session 1
		synctest.Wait()
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 close", "2 open 192.0.2.1:53", "2 < b", "2 close",
			"3 open 192.0.2.1:53", "3 < a", "3 close", "4 open 192.0.2.2:53", "4 < a", "5 open 192.0.2.2:53", "5 < b")
	})
}
