package handler

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// budgetRig is several services that share a budget.
type budgetRig struct {
	budget *SessionBudget
	engine *fakeEngine
	rigs   []*udpRig
}

func newBudgetRig(t *testing.T, limit, services int) *budgetRig {
	b := &budgetRig{engine: &fakeEngine{quiet: true}}
	b.budget = NewSessionBudget(limit, b.engine)
	for range services {
		r := newUDPRig(t, []string{"192.0.2.1:53"}, func(o *Options) { o.UDP, o.MaxUDPSessions = b.engine, 0 })
		r.engine = b.engine
		r.service.sessions = newSessions(b.budget, r.service.ends.notify)
		b.rigs = append(b.rigs, r)
	}
	return b
}

// deliver delivers a datagram of a new client a millisecond after the one before.
func (b *budgetRig) deliver(service, client int) {
	time.Sleep(time.Millisecond)
	b.rigs[service].deliver(client, new(udpClient), "a")
}

// answer lets the client's backend answer.
func (b *budgetRig) answer(service, client int) {
	b.rigs[service].session(client).socket.Datagrams([][]byte{[]byte("A")})
}

// sizes returns the number of sessions of each service.
func (b *budgetRig) sizes() (list []int) {
	for _, r := range b.rigs {
		_, n := r.service.Active()
		list = append(list, n)
	}
	return list
}

func (b *budgetRig) wants(t *testing.T, sizes ...int) {
	t.Helper()
	if got := b.sizes(); !slices.Equal(got, sizes) {
		t.Fatalf("the services have %v sessions, want %v", got, sizes)
	}
	sum := 0
	for _, n := range sizes {
		sum += n
	}
	if b.budget.sessions != sum {
		t.Fatalf("the budget counts %d sessions, want %d", b.budget.sessions, sum)
	}
	if open, most := b.engine.sockets(); open != sum || most > b.budget.limit {
		t.Fatalf("%d sockets, at most %d at once, want %d", open, most, sum)
	}
}

func TestSessionBudget(t *testing.T) {
	bubble := func(name string, limit, services int, f func(t *testing.T, b *budgetRig)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(t, newBudgetRig(t, limit, services)) })
		})
	}
	bubble("the largest service pays, with its longest-idle session", 40, 2, func(t *testing.T, b *budgetRig) {
		for i := range 40 {
			service := min(1, i/30) // 30 and 10
			b.deliver(service, i)
			b.answer(service, i)
		}
		for i := range 5 { // in flight
			b.deliver(1, 100+i)
		}
		b.wants(t, 25, 15)
		if b.rigs[0].session(4) != nil || b.rigs[0].session(5) == nil {
			t.Error("another session than the longest-idle ones was evicted")
		}
		for i := range 20 {
			b.deliver(1, 200+i)
			b.answer(1, 200+i)
		}
		b.wants(t, 20, 20)
	})
	bubble("a flood takes at most a quarter from the largest service, and nothing from others", 80, 3, func(t *testing.T, b *budgetRig) {
		for i := range 60 {
			b.deliver(0, i)
			b.answer(0, i)
		}
		for i := range 20 {
			b.deliver(1, i)
			if i < 17 {
				b.answer(1, i) // the last three are in flight
			}
		}
		for i := range 500 {
			b.deliver(2, i)
		}
		b.wants(t, 42, 20, 18)
		for i := 17; i < 20; i++ {
			if b.rigs[1].session(i) == nil {
				t.Error("a client in flight was evicted for the flood of another service")
			}
		}
	})
	bubble("sessions that are silent and have no answer are evicted first", 20, 2, func(t *testing.T, b *budgetRig) {
		for i := range 16 {
			b.deliver(0, i)
			b.answer(0, i)
		}
		for i := range 4 {
			b.deliver(1, i)
		}
		time.Sleep(silentFor)
		for i := range 4 {
			b.deliver(0, 100+i)
			b.answer(0, 100+i)
		}
		b.wants(t, 20, 0)
	})
	bubble("for a socket, services without sockets are passed over", 100, 3, func(t *testing.T, b *budgetRig) {
		for i := range 10 {
			b.deliver(0, i)
			s := b.rigs[0].session(i)
			s.lock()
			s.refuseLocked(errNoBackend) // closes the socket
			s.unlock()
		}
		b.deliver(1, 1)
		b.answer(1, 1)
		b.deliver(2, 2)
		b.answer(2, 2)
		payer := b.rigs[1].service.sessions
		for range 2 {
			if !b.budget.evict(payer, true) {
				t.Error("no session was evicted")
			}
		}
		if got := b.sizes(); !slices.Equal(got, []int{10, 0, 0}) {
			t.Errorf("the services have %v sessions", got)
		}
		if b.budget.evict(payer, true) {
			t.Error("a session without a socket was evicted")
		}
	})
	bubble("sessions keep a part of the budget from TCP", 80, 2, func(t *testing.T, b *budgetRig) {
		for i := range 60 {
			service := i % 2
			b.deliver(service, i)
			if i < 45 {
				b.answer(service, i)
			}
		}
		for b.budget.FreeDescriptor() {
		}
		if b.budget.sessions != 40 {
			t.Fatalf("%d sessions are left, want half of the budget", b.budget.sessions)
		}
		time.Sleep(silentFor)
		for b.budget.FreeDescriptor() {
		}
		if got := b.budget.unanswered; got != 0 {
			t.Errorf("%d silent sessions are left", got)
		}
		for _, r := range b.rigs {
			r.service.Cut()
		}
		for i := range 30 {
			b.deliver(0, i)
		}
		time.Sleep(silentFor)
		for b.budget.FreeDescriptor() {
		}
		b.wants(t, 10, 0) // an eighth of the budget, even of silent ones
	})
}

// sparesEngine is a fake engine with one spare socket.
type sparesEngine struct {
	fakeEngine
	spares int
}

// CloseSpares implements [dgram.Engine].
func (e *sparesEngine) CloseSpares() bool {
	had := e.spares > 0
	e.spares = 0
	return had
}

// A spare socket gives its descriptor before a session does.
func TestFreeDescriptorClosesSpares(t *testing.T) {
	engine := &sparesEngine{spares: 3}
	budget := NewSessionBudget(8, engine)
	r := newRig(t, []string{"192.0.2.1:53"}, func(o *Options) { o.UDP = engine })
	r.service.sessions = newSessions(budget, r.service.ends.notify)
	for i := range 6 {
		r.deliver(i, new(udpClient), "a")
	}
	if !budget.FreeDescriptor() || engine.spares != 0 {
		t.Error("the spare sockets are open")
	}
	r.wantSessions(6)
	engine.spares = 1
	engine.onClose = func() { engine.spares++ } // the socket of an ended session becomes a spare one
	if !budget.FreeDescriptor() || engine.spares != 0 {
		t.Error("the spare sockets are open")
	}
	if !budget.FreeDescriptor() || engine.spares != 0 {
		t.Error("the socket of the evicted session is open")
	}
	r.wantSessions(5)
}

// Services that start and end sessions at the same time keep to the budget, and it
// counts right.
func TestSessionBudgetRace(t *testing.T) {
	const limit, goroutines, each = 50, 8, 2000
	engine := &fakeEngine{quiet: true}
	budget := NewSessionBudget(limit, engine)
	var services []*Relay
	for range 4 {
		r := newRig(t, []string{"192.0.2.1:53"}, func(o *Options) { o.UDP, o.Log, o.IdleTimeout = engine, zap.NewNop(), time.Millisecond })
		r.service.sessions = newSessions(budget, r.service.ends.notify)
		services = append(services, r.relay)
	}
	var evicted atomic.Int64
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range each {
				relay, key := services[(g+i)%len(services)], udpKey(g<<16|i)
				relay.Deliver(key, [][]byte{[]byte("a")}, new(nopReplier))
				table := relay.service.sessions
				table.mu.Lock()
				s := table.byKey[key]
				table.mu.Unlock()
				switch {
				case s == nil:
				case i%3 == 0:
					s.lock()
					b := s.socket
					s.unlock()
					if b != nil {
						b.Datagrams([][]byte{[]byte("A")})
					}
				case i%7 == 0 && budget.FreeDescriptor():
					evicted.Add(1)
				}
				budget.mu.Lock()
				if budget.sessions > limit+goroutines || budget.unanswered > budget.sessions {
					t.Errorf("%d sessions, %d of them without an answer", budget.sessions, budget.unanswered)
				}
				budget.mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, relay := range services {
		relay.service.Close()
	}
	// A sweep of idle sessions may still be running.
	relaytest.Eventually(t, "all sockets to be closed", func() bool { open, _ := engine.sockets(); return open == 0 })
	budget.mu.Lock()
	defer budget.mu.Unlock()
	if budget.sessions != 0 || budget.unanswered != 0 || len(budget.bySize)+len(budget.byWaiting) != 0 {
		t.Errorf("%d sessions, %d without an answer, %d and %d shares are left", budget.sessions, budget.unanswered, len(budget.bySize), len(budget.byWaiting))
	}
}
