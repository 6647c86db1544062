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
)

func TestUDPStressSockets(t *testing.T) { overEngines(t, testUDPStressSockets) }

// moody is an engine that fails now and then.
type moody struct {
	dgram.Engine
	opened atomic.Int64
}

// Open implements [dgram.Engine].
func (m *moody) Open(addr netip.AddrPort, sink dgram.Sink) (dgram.Socket, error) {
	switch m.opened.Add(1) % 50 {
	case 0:
		return nil, errNoPort
	case 1:
		return nil, errRefused
	}
	return m.Engine.Open(addr, sink)
}

// The same turmoil as in [TestUDPStress], over real sockets: backends that
// answer, are silent or refuse, while sessions come, go and are cut.
func testUDPStressSockets(t *testing.T, engine dgram.Engine) {
	noLeaks(t)
	steady := newUDPBackend(t, echoDatagram)
	var silence atomic.Bool
	moodyOne := newUDPBackend(t, func(d []byte) []byte {
		if silence.Load() {
			return nil
		}
		return d
	})
	r := newRig(t, []string{deadAddr, moodyOne.addr, steady.addr}, func(o *Options) {
		o.UDP = &moody{Engine: engine}
		o.Log = o.Log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))
		o.IdleTimeout = 20 * time.Millisecond
		o.UDPReplyTimeout = 2 * time.Millisecond
		o.UDPResponses = 3
		o.MaxUDPSessions = 50
	})
	stop := make(chan struct{})
	var weather, clients sync.WaitGroup
	weather.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				silence.Store(n%2 == 0)
				if n%10 == 0 {
					r.service.Cut()
				}
			}
		}
	})
	var took, released, answered atomic.Int64
	for i := range 8 {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(9, uint64(i)))
			for n := range 2000 {
				took.Add(1)
				client := &countingReplier{onceReplier{released: &released}, &answered}
				r.deliver(random.IntN(100), client, []string{"a", "bb", ""}[random.IntN(3)])
				if n%20 == 0 {
					time.Sleep(time.Millisecond) // some are answered
				}
			}
		})
	}
	clients.Wait()
	close(stop)
	weather.Wait()
	if _, n := r.service.Active(); n > 50 {
		t.Errorf("%d sessions, at most 50 allowed", n)
	}
	r.service.Drain(0)
	eventually(t, "the end of all", func() bool { _, n := r.service.Active(); return n == 0 })
	r.wantLines("relay ended by a panic", 0)
	eventually(t, "each replier released", func() bool { return released.Load() == took.Load() })
	if answered.Load() == 0 {
		t.Error("no answers at all")
	}
}

type countingReplier struct {
	onceReplier
	answered *atomic.Int64
}

// Reply implements [Replier].
func (c *countingReplier) Reply(datagrams [][]byte) error {
	c.answered.Add(int64(len(datagrams)))
	return c.onceReplier.Reply(datagrams)
}
