package handler

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file contains the pause before the second attempt on a UDP backend that has
// refused a datagram.
//
// A server that connects its socket to a client and binds a new one for the next
// client (iperf 2, many DTLS servers) closes its port for some microseconds. What
// arrives in that gap is refused. Two strikes in the same gap would demote a
// backend that works.

const (
	// rebindGap is the length of such a gap at most. The second attempt of a session
	// begins that long after its first one was refused, and attempts of other
	// sessions that began in the gap of a strike cause no second strike.
	rebindGap = 10 * time.Millisecond
	// rebindSpacing is the pause between the second attempts of two sessions. The
	// first session makes the server bind a new socket, which must not refuse the
	// second session.
	rebindSpacing = 2 * time.Millisecond
	// maxRebindTurns is how many sessions get a turn of their own. The others wait
	// for a random time of the same length.
	maxRebindTurns = 15
)

// rebinds delays second attempts on UDP backends.
type rebinds struct {
	gap  time.Duration // set once: rebindGap; tests may set 0, which turns the delay off
	next atomic.Int64  // when the latest delayed attempt begins, in nanoseconds after sessions.epoch
}

// delay returns how long the second attempt waits after one that failed with err.
func (r *rebinds) delay(err error, now time.Duration) time.Duration {
	if r.gapOf(upstream.UDP, err) == 0 {
		return 0
	}
	earliest := int64(now + r.gap)
	for {
		before := r.next.Load()
		at := max(earliest, before+int64(rebindSpacing))
		if at > earliest+maxRebindTurns*int64(rebindSpacing) {
			return r.gap + rand.N(maxRebindTurns*rebindSpacing)
		}
		if r.next.CompareAndSwap(before, at) {
			return time.Duration(at) - now
		}
	}
}

// gapOf returns how long after a strike for err attempts may begin that cause no
// second strike.
func (r *rebinds) gapOf(n upstream.Network, err error) time.Duration {
	if n == upstream.UDP && dgram.Refused(err) {
		return r.gap
	}
	return 0
}
