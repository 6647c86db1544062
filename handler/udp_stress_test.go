package handler

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
)

// Everything at once: many clients, backends that refuse, recover and stop
// answering, evictions, exhausted descriptors, timeouts, answers that end
// sessions, lookups that hang. In the end all sessions have ended, and each
// Replier was released once.
func TestUDPStress(t *testing.T) {
	relaytest.NoLeaks(t)
	r := newUDPRig(t, []string{"192.0.2.1:53", "a.example:53", "192.0.2.3:53"}, func(o *Options) {
		o.Log = o.Log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))
		o.IdleTimeout = 20 * time.Millisecond
		o.ConnectTimeout = 5 * time.Millisecond
		o.UDPReplyTimeout = 2 * time.Millisecond
		o.UDPResponses = 3
		o.MaxUDPSessions = 50
	})
	r.engine.quiet = true
	r.resolver.set("a.example", addrsAnswer("192.0.2.2", "192.0.2.22"))
	// The behaviour of each address changes all the time.
	const (
		answers = iota
		silent
		refuses
		openFails
		exhausted
		behaviours
	)
	var behaviour [4]atomic.Int32
	of := func(addr netip.AddrPort) int32 { return behaviour[addr.Addr().As4()[3]%4].Load() }
	r.engine.onOpen = func(addr netip.AddrPort) error {
		switch of(addr) {
		case openFails:
			return errRefused
		case exhausted:
			return errNoPort
		}
		return nil
	}
	var answering sync.WaitGroup // answers that are being delivered
	r.engine.onSend = func(s *fakeSocket, d []byte) error {
		switch of(s.addr) {
		case answers:
			answering.Go(func() { s.answer("answer"); s.answer("another") })
		case refuses:
			if len(d) == 1 {
				return errRefused
			}
			answering.Go(func() { s.sink.Failed(errRefused) })
		}
		return nil
	}

	stop := make(chan struct{})
	var changes, clients sync.WaitGroup
	changes.Go(func() {
		random := rand.New(rand.NewPCG(7, 8))
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				behaviour[random.IntN(4)].Store(int32(random.IntN(behaviours)))
				if random.IntN(4) == 0 {
					r.resolver.set("a.example", []answer{addrsAnswer("192.0.2.2"), addrsAnswer("192.0.2.2", "192.0.2.22"), hangAnswer, errorAnswer(errNoSuchHost)}[random.IntN(4)])
				}
			}
		}
	})
	var delivered, released atomic.Int64
	for i := range 8 {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(9, uint64(i)))
			for range 3000 {
				delivered.Add(1)
				client := &onceReplier{released: &released}
				r.deliver(random.IntN(100), client, []string{"a", "bb", ""}[random.IntN(3)])
				if random.IntN(200) == 0 {
					for _, s := range r.service.sessions.all() {
						s.end(stream.ServiceClosed)
					}
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
	r.service.Close()
	answering.Wait()
	r.wantSessions(0)
	relaytest.Eventually(t, "all sockets to be closed", func() bool { open, _ := r.engine.sockets(); return open == 0 })
	r.wantLines("relay ended by a panic", 0)
	relaytest.Eventually(t, "each Replier to be released", func() bool { return released.Load() == delivered.Load() })
}

// onceReplier is delivered once, and so must be released once.
type onceReplier struct {
	released *atomic.Int64
	gone     atomic.Bool
}

func (c *onceReplier) Reply([][]byte) error {
	if c.gone.Load() {
		panic("reply after release")
	}
	return nil
}

func (c *onceReplier) Release() {
	if c.gone.Swap(true) {
		panic("released twice")
	}
	c.released.Add(1)
}
