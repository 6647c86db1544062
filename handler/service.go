package handler

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/upstream"
)

// Service is what a service keeps through changes of its settings.
type Service struct {
	Name string         // set once
	Pool *upstream.Pool // set once

	// Journal says why the queue stands as it does.
	Journal Journal

	observe   func(Event) // set once; nil: nobody is told of events
	sessions  *sessions   // set once
	admission admission
	tallies   tallies
	floods    floods
	ends      ends

	mu      sync.Mutex // guards what follows
	relays  *tcpRelay  // the first of the list of those at work
	count   int        // how many they are
	closing bool       // nobody new is served
}

// NewService makes the running state of a service. observe, if it is not nil, is
// told of each event; it must not wait for anything.
func NewService(name string, pool *upstream.Pool, observe func(Event)) *Service {
	s := &Service{Name: name, Pool: pool, observe: observe}
	s.sessions = newSessions(s.ends.tell)
	return s
}

// Active counts the TCP relays (attempts included) and UDP sessions at work.
func (s *Service) Active() (tcp, udp int) {
	s.mu.Lock()
	tcp = s.count
	s.mu.Unlock()
	return tcp, s.sessions.len()
}

func (s *Service) idle() bool {
	tcp, udp := s.Active()
	return tcp == 0 && udp == 0
}

// enter books a relay; false if there is no room for it, or nobody new is
// served any more.
func (s *Service) enter(t *tcpRelay) bool {
	ticket, refusal := s.admission.admit(&t.relay.opts, ipOf(t.client))
	switch refusal {
	case RefusedTooMany:
		s.turnAway(t, tooManyTCP)
		return false
	case RefusedTooManyIP:
		s.turnAway(t, tooManyOfOneTCP)
		return false
	}
	t.ticket = ticket
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		s.admission.leave(ticket, ipOf(t.client))
		return false
	}
	t.next = s.relays
	if t.next != nil {
		t.next.prev = t
	}
	s.relays = t
	s.count++
	return true
}

// turnAway tells of a client that there is no room for.
func (s *Service) turnAway(t *tcpRelay, kind flood) {
	s.floods.note(t.relay.log, kind, zap.Stringer("network", upstream.TCP), zap.Stringer("client", t.client))
	t.log(record{why: refusedClient})
}

func (s *Service) leave(t *tcpRelay) {
	s.mu.Lock()
	if t.prev != nil {
		t.prev.next = t.next
	} else {
		s.relays = t.next
	}
	if t.next != nil {
		t.next.prev = t.prev
	}
	t.prev, t.next = nil, nil
	s.count--
	s.mu.Unlock()
	s.admission.leave(t.ticket, ipOf(t.client))
	s.ends.tell()
}

// refuse takes no new clients from now on.
func (s *Service) refuse() {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.sessions.refuse()
}

// cut ends all relays with a reset, and all sessions.
func (s *Service) cut(why reason) {
	s.mu.Lock()
	relays := make([]*tcpRelay, 0, s.count)
	for t := s.relays; t != nil; t = t.next {
		relays = append(relays, t)
	}
	s.mu.Unlock()
	for _, t := range relays {
		t.cut(why)
	}
	for _, session := range s.sessions.all() {
		session.end(why)
	}
}

// Cut ends all relays and sessions at work: their service has been taken out
// of the config, and its grace period is over. New clients are served.
func (s *Service) Cut() { s.cut(removed) }

// Close ends everything and serves nobody any more.
func (s *Service) Close() {
	s.refuse()
	s.cut(serviceClosed)
}

// How sessions end while their service is drained: UDP has no end of its own,
// so one that owes nobody an answer and has been quiet this long is finished.
const (
	quietFor   = time.Second
	quietCheck = 100 * time.Millisecond
)

// Drain serves nobody new, waits until those at work have finished, at most
// for timeout, and cuts the rest. It says how many ended by themselves and how
// many were cut.
func (s *Service) Drain(timeout time.Duration) (finished, cut int) {
	s.refuse()
	tcp, udp := s.Active()
	all := tcp + udp
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if udp > 0 {
		check := time.NewTicker(quietCheck)
		defer check.Stop()
		stop := make(chan struct{})
		defer close(stop)
		go func() { // ends quiet sessions until Drain returns
			for {
				select {
				case <-check.C:
					s.sessions.endQuiet(quietFor)
				case <-stop:
					return
				}
			}
		}()
	}
	_ = s.WaitIdle(ctx)
	tcp, udp = s.Active()
	cut = tcp + udp
	s.cut(shutdown)
	// What is cut ends at once, but on goroutines of its own.
	ended, done := context.WithTimeout(context.Background(), time.Second)
	defer done()
	_ = s.WaitIdle(ended)
	return all - cut, cut
}

// WaitIdle waits until no relay and no session is at work. The error is that
// of a context that ended first.
func (s *Service) WaitIdle(ctx context.Context) error {
	told := s.ends.watch()
	defer s.ends.unwatch(told)
	for !s.idle() {
		select {
		case <-told:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// ends tells those who wait that something has ended. Where nobody waits it
// costs a look.
type ends struct {
	watchers atomic.Int32

	mu   sync.Mutex // guards told
	told map[chan struct{}]struct{}
}

func (e *ends) watch() chan struct{} {
	ch := make(chan struct{}, 1)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.told == nil {
		e.told = make(map[chan struct{}]struct{})
	}
	e.told[ch] = struct{}{}
	e.watchers.Add(1)
	return ch
}

func (e *ends) unwatch(ch chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.told, ch)
	e.watchers.Add(-1)
}

func (e *ends) tell() {
	if e.watchers.Load() == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for ch := range e.told {
		select {
		case ch <- struct{}{}:
		default: // told already, and has not looked yet
		}
	}
}
