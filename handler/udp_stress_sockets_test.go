package handler

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/relaytest"
)

func TestUDPStressSockets(t *testing.T) { overEngines(t, testUDPStressSockets) }

// failingEngine is an engine whose Open fails at times.
type failingEngine struct {
	dgram.Engine
	opened atomic.Int64
}

// Open implements [dgram.Engine].
func (e *failingEngine) Open(addr netip.AddrPort, sink dgram.Sink) (dgram.Socket, error) {
	switch e.opened.Add(1) % 50 {
	case 0:
		return nil, errNoPort
	case 1:
		return nil, errRefused
	}
	return e.Engine.Open(addr, sink)
}

// As [TestUDPStress], with real sockets: backends that answer, do not answer or
// refuse, while sessions start, end and are cut.
func testUDPStressSockets(t *testing.T, engine dgram.Engine) {
	relaytest.NoLeaks(t)
	steady := relaytest.NewUDPBackend(t, relaytest.Echo)
	var silent atomic.Bool
	changing := relaytest.NewUDPBackend(t, func(d []byte) []byte {
		if silent.Load() {
			return nil
		}
		return d
	})
	r := newRig(t, []string{deadAddr, changing.Addr, steady.Addr}, func(o *Options) {
		o.UDP = &failingEngine{Engine: engine}
		o.Log = o.Log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))
		o.IdleTimeout = 20 * time.Millisecond
		o.UDPReplyTimeout = 2 * time.Millisecond
		o.UDPResponses = 3
		o.MaxUDPSessions = 50
	})
	stop := make(chan struct{})
	var changes, clients sync.WaitGroup
	changes.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				silent.Store(n%2 == 0)
				if n%10 == 0 {
					r.service.Cut()
				}
			}
		}
	})
	var delivered, released, answered atomic.Int64
	for i := range 8 {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(9, uint64(i)))
			for n := range 2000 {
				delivered.Add(1)
				client := &countingReplier{onceReplier{released: &released}, &answered}
				r.deliver(random.IntN(100), client, []string{"a", "bb", ""}[random.IntN(3)])
				if n%20 == 0 {
					time.Sleep(time.Millisecond) // time for answers
				}
			}
		})
	}
	clients.Wait()
	close(stop)
	changes.Wait()
	if _, n := r.service.Active(); n > 50 {
		t.Errorf("%d sessions, at most 50 allowed", n)
	}
	r.service.Drain(0)
	relaytest.Eventually(t, "the end of all sessions", func() bool { _, n := r.service.Active(); return n == 0 })
	r.wantLines("relay ended by a panic", 0)
	relaytest.Eventually(t, "each Replier to be released", func() bool { return released.Load() == delivered.Load() })
	if answered.Load() == 0 {
		t.Error("no answers")
	}
}

// countingReplier also counts answers.
type countingReplier struct {
	onceReplier
	answered *atomic.Int64
}

// Reply implements [Replier].
func (c *countingReplier) Reply(datagrams [][]byte) error {
	c.answered.Add(int64(len(datagrams)))
	return c.onceReplier.Reply(datagrams)
}
