package handler

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Whatever happens to sessions of two services, the counted memory is what they
// hold, and within the limit.
func TestBacklogsCountProperty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(7, 8))
		b := NewBacklogs(256 << 10)
		var openPanics, closePanics atomic.Bool
		var rigs []*udpRig
		for range 2 {
			r := newUDPRig(t, []string{"a.example:53", "192.0.2.2:53"}, withBacklogs(b), func(o *Options) {
				o.ConnectTimeout, o.IdleTimeout, o.UDPReplyTimeout, o.UDPResponses = 3*time.Second, 20*time.Second, 2*time.Second, random.IntN(2)
				o.MaxUDPSessions = 30
			})
			r.engine.onOpen = func(netip.AddrPort) error {
				if openPanics.Load() {
					panic("Open panics")
				}
				return nil
			}
			r.engine.onClose = func() {
				if closePanics.Load() {
					panic("Close panics")
				}
			}
			rigs = append(rigs, r)
		}
		answers := []answer{addrsAnswer("192.0.2.1", "192.0.2.11"), hangAnswer, hangAnswer, errorAnswer(errNoSuchHost)}
		for step := range 20_000 {
			r := rigs[random.IntN(2)]
			socket := func() *fakeSocket { // an open one, or nil
				r.engine.mu.Lock()
				defer r.engine.mu.Unlock()
				if len(r.engine.all) == 0 {
					return nil
				}
				s := r.engine.all[max(0, len(r.engine.all)-1-random.IntN(40))]
				if s.closed {
					return nil
				}
				return s
			}
			switch op := random.IntN(100); {
			case op < 60:
				group := make([][]byte, 1+random.IntN(4))
				for i := range group {
					group[i] = make([]byte, random.IntN(1<<random.IntN(17)))
				}
				r.relay.Deliver(udpKey(random.IntN(40)), group, new(udpClient))
			case op < 75:
				if s := socket(); s != nil {
					s.answer("A")
				}
			case op < 80:
				if s := socket(); s != nil {
					s.sink.Failed(errRefused)
				}
			case op < 85:
				if s := r.session(random.IntN(40)); s != nil {
					s.end(evictedForRoom)
				}
			case op < 86:
				openPanics.Store(true)
				r.deliver(random.IntN(40), new(udpClient), "p")
				openPanics.Store(false)
			case op < 87:
				closePanics.Store(true)
				if s := r.session(random.IntN(40)); s != nil {
					s.end(evictedForRoom)
				}
				closePanics.Store(false)
			case op < 88:
				r.relay = New(r.service, r.relay.opts) // as at a reload
			case op < 93:
				r.resolver.set("a.example", answers[random.IntN(len(answers))])
			case op < 95:
				r.resolver.setCached("a.example", "192.0.2.1")
			case op < 99:
				time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
			default:
				time.Sleep(time.Duration(random.IntN(5000)) * time.Millisecond)
			}
			synctest.Wait()
			if step%4 == 0 {
				b.wantHeld(t, rigs[0].service, rigs[1].service)
			}
			if b.Held() > b.limit {
				t.Fatalf("step %d: %d bytes held", step, b.Held())
			}
		}
		if rigs[0].service.floods.total(backlogsFull) == 0 {
			t.Error("the limit was not reached")
		}
		rigs[0].service.Close()
		b.wantHeld(t, rigs[1].service)
		rigs[1].service.Close()
		if b.Held() != 0 || b.listed() != 0 {
			t.Errorf("%d bytes and %d sessions counted after the end", b.Held(), b.listed())
		}
	})
}

// Many goroutines that deliver and answer exceed the limit by no more than what
// they have just added.
func TestBacklogsConcurrent(t *testing.T) {
	const goroutines = 8
	b := NewBacklogs(1 << 20)
	rigs := []*udpRig{}
	for range 2 {
		r := newUDPRig(t, []string{"a.example:53"}, withBacklogs(b))
		r.resolver.set("a.example", hangAnswer)
		rigs = append(rigs, r)
	}
	rigs[1].resolver.setCached("a.example", "192.0.2.1")
	rigs[1].engine.quiet = true
	rigs[1].engine.onSend = func(s *fakeSocket, datagram []byte) error {
		if datagram[0]%2 == 0 {
			go s.answer("A")
		}
		return nil
	}
	var wait sync.WaitGroup
	for g := range goroutines {
		wait.Go(func() {
			random := rand.New(rand.NewPCG(9, uint64(g)))
			for range 3000 {
				r := rigs[random.IntN(2)]
				datagram := make([]byte, 1+random.IntN(4000))
				datagram[0] = byte(random.IntN(256))
				n := random.IntN(200)
				r.relay.Deliver(udpKey(n), [][]byte{datagram}, new(udpClient))
				if random.IntN(20) == 0 {
					if s := r.session(n); s != nil {
						s.end(evictedForRoom)
					}
				}
				if held := b.Held(); held > b.limit+goroutines*(8<<10) {
					t.Errorf("%d bytes held", held)
					return
				}
			}
		})
	}
	wait.Wait()
	for _, r := range rigs {
		r.service.Close()
	}
	if b.Held() != 0 || b.listed() != 0 {
		t.Errorf("%d bytes and %d sessions counted after the end", b.Held(), b.listed())
	}
}
