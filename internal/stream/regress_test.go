package stream

import (
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// The tests in this file are shortened programs of FuzzEnds that found a fault.

// A reset waits for the acknowledgement of the bytes before it, but not once the
// side that has not acknowledged them was reset, too. That side has finished, so
// the relay does not notice by a read.
func TestResetOfBothSides(t *testing.T) {
	for _, from := range []Side{ClientSide, BackendSide} {
		variants(t, func(t *testing.T, k kind, s setup) {
			size := 300_000 // more than the side that stays has room for
			if s.buffers > 0 {
				size = 12_000
			}
			r := newRig(t, k, s)
			goes, stays := r.side(from), r.side(from.other())
			relaytest.Check(t, stays.CloseWrite())
			wantStream(t, "the side that sends", goes, "", fin)
			say(t, goes, text(size))
			relaytest.Eventually(t, "all bytes to be written", func() bool {
				return r.up.Load()+r.down.Load() == uint64(size)
			})
			resetNow(t, goes)
			resetNow(t, stays)
			if end := r.end(); end.Reason != from.reset() && end.Reason != from.other().reset() {
				t.Errorf("ended as %+v", end)
			}
		})
	}
}
