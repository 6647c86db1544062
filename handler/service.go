package handler

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// Service is the state of a service that outlives a change of its settings.
type Service struct {
	Name string         // set once
	Pool *upstream.Pool // set once

	// Journal explains the state of the queue.
	Journal Journal

	observe   func(Event) // set once; nil: events are not reported
	sessions  *sessions   // set once
	admission admission
	tallies   tallies
	floods    floods
	ends      endNotifier
	judges    judges
	holds     holds
	checker   atomic.Pointer[healthChecker] // that runs; nil: none
	drains    drainLimits
	drills    drills
	rebinds   rebinds
	hedges    atomic.Uint64 // companion attempts
	rescues   atomic.Uint64 // clients that were served after a backend had accepted and failed them

	sameHost           atomic.Int64 // TCP relays whose client is on the backend's machine, see countSameHostLocked
	unanswered         unansweredLimit
	refusingUnanswered atomic.Bool // a goroutine refuses the sessions that count against it

	mu      sync.Mutex // guards the fields below
	relays  *tcpRelay  // head of the list of active relays
	count   int        // length of that list
	waiting int        // TCP clients that wait for a place, see admission
	closing bool       // no new clients are accepted
}

// NewService returns a service without clients. observe, if it is not nil, is
// called with each event; it must not block. All services of a process should
// share one budget.
func NewService(name string, pool *upstream.Pool, observe func(Event), budget *SessionBudget) *Service {
	s := &Service{Name: name, Pool: pool, observe: observe, rebinds: rebinds{gap: rebindGap}}
	s.sessions = newSessions(budget, s.ends.notify)
	return s
}

// Active returns the number of TCP relays, including those that still search
// for a backend, and of UDP sessions.
func (s *Service) Active() (tcp, udp int) {
	s.mu.Lock()
	tcp = s.count
	s.mu.Unlock()
	return tcp, s.sessions.len()
}

// Idle reports whether the service has no client: no relay, no session, and no
// client that waits for a place at a limit.
func (s *Service) Idle() bool {
	s.mu.Lock()
	tcp := s.count + s.waiting
	s.mu.Unlock()
	return tcp == 0 && s.sessions.len() == 0
}

// Errors of a client that gets no relay.
var (
	errStopping = errors.New("the service stops") // of what waits or is to begin at the end of the service
	errClosing  = errors.New("the service accepts no new clients")
	errRetired  = errors.New("the relay takes no new clients") // another one may take the client
)

// beginWait counts a client that waits for a place, until endWait.
func (s *Service) beginWait(r *Relay) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.retired:
		return errRetired
	case s.closing:
		return errClosing
	}
	s.waiting++
	return nil
}

// endWait ends beginWait.
func (s *Service) endWait() {
	s.mu.Lock()
	s.waiting--
	s.mu.Unlock()
	s.ends.notify()
}

// enter adds an admitted relay to the active ones. If it returns an error, the
// relay has given its place back. A client that was queued may enter a retired relay.
func (s *Service) enter(t *tcpRelay, queued bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case t.relay.retired && !queued:
		s.admission.leave(t.ticket)
		return errRetired
	case s.closing:
		s.admission.leave(t.ticket)
		return errClosing
	}
	t.next = s.relays
	if t.next != nil {
		t.next.prev = t
	}
	s.relays = t
	s.count++
	return nil
}

// refuse logs and counts a client that was not admitted.
func (s *Service) refuse(t *tcpRelay, refusal Refusal) {
	kind, why := limitTCP, stream.RefusedLimit
	switch refusal {
	case RefusedTooManyIP:
		kind = perIPLimitTCP
	case RefusedDenied:
		kind, why = deniedTCP, stream.RefusedDenied
	}
	s.floods.note(t.relay.log, kind, zap.Stringer("network", upstream.TCP), zap.Stringer("client", t.client))
	t.log(record{why: why, err: refusal.error(&t.relay.opts)})
}

// leave removes a relay from the active ones.
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
	s.admission.leave(t.ticket)
	s.ends.notify()
}

// stopAccepting makes the service refuse new clients from now on.
func (s *Service) stopAccepting() {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.judges.close()
	s.holds.close()
	s.drains.close()
	s.drills.close()
	s.sessions.refuse()
}

// cut ends all TCP relays with a reset, and all UDP sessions.
func (s *Service) cut(why stream.Reason) {
	s.judges.stop()
	for _, t := range s.activeRelays() {
		t.cut(why)
	}
	for _, session := range s.sessions.all() {
		session.end(why)
	}
}

// Cut ends all TCP relays and UDP sessions of a service that was removed from
// the config, after its grace period. New clients are still served.
func (s *Service) Cut() { s.cut(stream.Removed) }

// Close ends all TCP relays and UDP sessions, and refuses new clients from now on.
func (s *Service) Close() {
	s.stopAccepting()
	s.cut(stream.ServiceClosed)
}

// UDP has no end of a connection. While a service is drained, a session counts
// as finished when no answer is outstanding and no datagram has passed for
// quietFor.
const (
	quietFor   = time.Second
	quietCheck = 100 * time.Millisecond // between two searches for such sessions
)

// Drain refuses new clients from now on, waits at most timeout for the active
// TCP relays and UDP sessions to finish, and cuts the rest. It returns how many
// finished and how many were cut.
func (s *Service) Drain(timeout time.Duration) (finished, cut int) {
	s.stopAccepting()
	return s.finish(timeout, true)
}

// Finish is Drain for a process that has given its listening sockets to another one.
// UDP sessions without traffic do not count as finished, because their clients would
// get another source port. New clients are not refused: none come, but for those that
// are in routes.
func (s *Service) Finish(timeout time.Duration) (finished, cut int) { return s.finish(timeout, false) }

// finish waits at most timeout for the active relays to finish, and cuts the rest.
// With endQuiet, UDP sessions without traffic count as finished.
func (s *Service) finish(timeout time.Duration, endQuiet bool) (finished, cut int) {
	tcp, udp := s.Active()
	all := tcp + udp
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if udp > 0 && endQuiet {
		check := time.NewTicker(quietCheck)
		defer check.Stop()
		stop := make(chan struct{})
		defer close(stop)
		go func() { // ends quiet sessions until finish returns
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
	if !endQuiet {
		s.endAnswered()
	}
	s.cut(stream.Shutdown)
	// Relays that are cut end at once, but on goroutines of their own.
	ended, done := context.WithTimeout(context.Background(), time.Second)
	defer done()
	_ = s.WaitIdle(ended)
	return all - cut, cut
}

// answerCheck is the time between two searches for answered sessions, of which there are
// answerChecks. An answer of a backend nearby takes less than both.
const (
	answerCheck  = 2 * time.Millisecond
	answerChecks = 20
)

// endAnswered ends the UDP sessions one by one when no answer is on its way, for a short
// time. A session that is cut loses that answer.
func (s *Service) endAnswered() {
	for range answerChecks {
		s.sessions.endQuiet(0)
		if _, udp := s.Active(); udp == 0 {
			return
		}
		time.Sleep(answerCheck)
	}
}

// WaitIdle waits until the service is idle. If ctx ends first, it returns the
// cause.
func (s *Service) WaitIdle(ctx context.Context) error {
	ended := s.ends.subscribe()
	defer s.ends.unsubscribe(ended)
	for !s.Idle() {
		select {
		case <-ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// endNotifier notifies subscribers when a relay or session has ended. Without
// subscribers, notify costs one atomic load.
type endNotifier struct {
	subscribers atomic.Int32 // number of channels

	mu       sync.Mutex // guards channels
	channels map[chan struct{}]struct{}
}

// subscribe returns a channel that receives a value after one or more ends. An
// end between subscribe and the next receive is not missed.
func (n *endNotifier) subscribe() chan struct{} {
	ch := make(chan struct{}, 1)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.channels == nil {
		n.channels = make(map[chan struct{}]struct{})
	}
	n.channels[ch] = struct{}{}
	n.subscribers.Add(1)
	return ch
}

// unsubscribe ends the notifications to a channel.
func (n *endNotifier) unsubscribe(ch chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.channels, ch)
	n.subscribers.Add(-1)
}

// notify notifies all subscribers. It does not block.
func (n *endNotifier) notify() {
	if n.subscribers.Load() == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for ch := range n.channels {
		select {
		case ch <- struct{}{}:
		default: // a notification is waiting already
		}
	}
}
