package handler

import (
	"context"
	"sync"
	"time"

	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/internal/stream"
)

// This file holds the waits for connections that are slow, because the backend is
// far away or silent. They stay on an event loop. The attempt loop takes over as soon
// as something else must happen for the client: the next address or a hedged attempt
// is due, connect_timeout expires, the backend was demoted by other clients, the
// client has left, or its context ends.

// parallel returns when the attempt loop has to do something in parallel with the
// connection to the first address, or to end it.
func (a *startedAttempt) parallel(opts *Options) time.Time {
	after := opts.ConnectTimeout
	if opts.Hedge > 0 {
		after = min(after, opts.Hedge)
	}
	due := a.attempt.Began.Add(after)
	if n := len(a.addrs); n > 1 {
		timeout := a.attempt.Began.Add(opts.ConnectTimeout).Sub(a.since)
		if next := a.since.Add(dial.Delay(timeout, n)); next.Before(due) {
			due = next
		}
	}
	return due
}

// slowWaits are the slow connections of a service. Those that a demotion of their
// backend ends share one goroutine.
type slowWaits struct {
	mu    sync.Mutex // guards the fields below and those of each demotionWait
	waits map[<-chan struct{}]*demotionWait
}

// demotionWait waits for one demotion. It ends with its last relay.
type demotionWait struct {
	relays map[*tcpRelay]struct{}
	ended  chan struct{} // closed when the last relay has left
}

// slowWait is the wait of one relay.
type slowWait struct {
	in      *slowWaits
	demoted <-chan struct{}
	stop    func() bool // ends the wait for the end of the client's context; nil: it has none
}

// enter has the attempt loop take over the attempt of a relay when its backend is
// demoted or its context ends. The caller holds the lock of the relay.
func (s *slowWaits) enter(t *tcpRelay, a *startedAttempt) *slowWait {
	w := &slowWait{in: s, demoted: a.attempt.Demoted()}
	if a.ctx.Done() != nil { // clients of relay+tcp/ have no context that ends
		w.stop = context.AfterFunc(a.ctx, t.handOver)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := s.waits[w.demoted]
	if wait == nil {
		wait = &demotionWait{relays: make(map[*tcpRelay]struct{}), ended: make(chan struct{})}
		if s.waits == nil {
			s.waits = make(map[<-chan struct{}]*demotionWait)
		}
		s.waits[w.demoted] = wait
		go func() { // ends with the demotion, or with the last relay
			select {
			case <-w.demoted:
				for _, t := range s.waiting(wait) {
					t.handOver()
				}
			case <-wait.ended:
			}
		}()
	}
	wait.relays[t] = struct{}{}
	return w
}

// leave ends the wait of a relay. The caller holds the lock of the relay's mover.
func (w *slowWait) leave(t *tcpRelay) {
	if w.stop != nil {
		w.stop()
	}
	w.in.mu.Lock()
	defer w.in.mu.Unlock()
	wait := w.in.waits[w.demoted]
	delete(wait.relays, t)
	if len(wait.relays) == 0 {
		delete(w.in.waits, w.demoted)
		close(wait.ended)
	}
}

// waiting returns the relays of a wait.
func (s *slowWaits) waiting(wait *demotionWait) []*tcpRelay {
	s.mu.Lock()
	defer s.mu.Unlock()
	relays := make([]*tcpRelay, 0, len(wait.relays))
	for t := range wait.relays {
		relays = append(relays, t)
	}
	return relays
}

// handOver has the attempt loop take over the connection that the relay waits for.
func (t *tcpRelay) handOver() {
	t.mu.Lock()
	mover := t.mover
	t.mu.Unlock()
	if connector, ok := mover.(stream.Connector); ok {
		connector.HandOver()
	}
}
