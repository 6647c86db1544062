package handler

import (
	"net/netip"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/upstream"
)

// A slow connection stays on the event loop until the first of: connect_timeout, the
// hedged attempt, the next address.
func TestParallelTo(t *testing.T) {
	const second, ms = time.Second, time.Millisecond
	for _, test := range []struct {
		timeout, hedge time.Duration
		addrs          int
		lookup         time.Duration // before the first dial
		want           time.Duration // after the begin of the attempt
	}{
		{2 * second, 0, 1, 0, 2 * second},
		{2 * second, 300 * ms, 1, 0, 300 * ms},
		{100 * ms, 300 * ms, 1, 0, 100 * ms},
		{2 * second, 0, 2, 0, dial.Stagger},
		{2 * second, 300 * ms, 2, 100 * ms, 300 * ms},
		{2 * second, 0, 2, 100 * ms, 100*ms + dial.Stagger},
		{300 * ms, 0, 2, 0, 100 * ms},
		{300 * ms, 0, 5, 0, 50 * ms},
	} {
		began := time.Now()
		a := &startedAttempt{attempt: upstream.Attempt{Began: began}, addrs: make([]netip.Addr, test.addrs), since: began.Add(test.lookup)}
		if got := a.parallel(&Options{ConnectTimeout: test.timeout, Hedge: test.hedge}).Sub(began); got != test.want {
			t.Errorf("%+v: after %v", test, got)
		}
	}
}
