package handler

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
)

// Everything at once: clients that come and go, backends that die, come back
// and fall silent, evictions, a lack of sockets, timeouts, answers that end
// sessions, names that hang. In the end all is over, and what was taken is
// given back once.
func TestUDPStress(t *testing.T) {
	noLeaks(t)
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
	// How each address behaves changes all the time.
	const (
		answers = iota
		silent
		refuses
		openFails
		noRoom
		behaviours
	)
	var behaviour [4]atomic.Int32
	of := func(addr netip.AddrPort) int32 { return behaviour[addr.Addr().As4()[3]%4].Load() }
	r.engine.onOpen = func(addr netip.AddrPort) error {
		switch of(addr) {
		case openFails:
			return errRefused
		case noRoom:
			return errNoPort
		}
		return nil
	}
	var under sync.WaitGroup // datagrams on their way
	r.engine.onSend = func(s *fakeSocket, d []byte) error {
		switch of(s.addr) {
		case answers:
			under.Go(func() { s.answer("answer"); s.answer("another") })
		case refuses:
			if len(d) == 1 {
				return errRefused
			}
			under.Go(func() { s.sink.Failed(errRefused) })
		}
		return nil
	}

	stop := make(chan struct{})
	var weather, clients sync.WaitGroup
	weather.Go(func() {
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
	var took, released atomic.Int64
	for i := range 8 {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(9, uint64(i)))
			for range 3000 {
				took.Add(1)
				client := &onceReplier{released: &released}
				r.deliver(random.IntN(100), client, []string{"a", "bb", ""}[random.IntN(3)])
				if random.IntN(200) == 0 {
					for _, s := range r.service.sessions.all() {
						s.end(serviceClosed)
					}
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
	r.service.Close()
	under.Wait()
	r.wantSessions(0)
	eventually(t, "all sockets closed", func() bool { open, _ := r.engine.sockets(); return open == 0 })
	r.wantLines("relay ended by a panic", 0)
	eventually(t, "each replier released", func() bool { return released.Load() == took.Load() })
}

// onceReplier is delivered once, and so released once.
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
