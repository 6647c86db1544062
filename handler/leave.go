package handler

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file takes clients away from a backend that is not to serve them any longer:
// the options on_down and failback move, and a drain with a time limit. TCP relays
// are ended with a RST, so that their clients come back to another backend. UDP
// sessions choose a backend anew with their next datagram.

// Reasons why a TCP relay was taken away from its backend.
const (
	backendDown   stream.Reason = "backend_down"    // on_down cut
	backendBehind stream.Reason = "failback"        // failback move: a preferred backend is back
	backendDrain  stream.Reason = "backend_drained" // the time limit of a drain
)

// leaveBackend takes the clients of a backend away from it, on one network or, if n
// is networks, on both, and adds that to the journal. It returns how many TCP relays
// it has ended and how many UDP sessions will move.
func (s *Service) leaveBackend(b *upstream.Backend, n upstream.Network, why stream.Reason) (tcp, udp int) {
	if n != upstream.UDP {
		for _, t := range s.activeRelays() {
			if t.leave(b, why) {
				tcp++
			}
		}
	}
	if n != upstream.TCP {
		for _, session := range s.sessions.all() {
			if session.leave(b) {
				udp++
			}
		}
	}
	if tcp+udp > 0 {
		s.Journal.Add(Entry{Kind: KindCut, Backend: b.Text, Cause: fmt.Sprintf("%s: %d TCP relays ended, %d UDP sessions move", why, tcp, udp)})
	}
	return tcp, udp
}

// activeRelays returns the TCP relays that have not ended.
func (s *Service) activeRelays() []*tcpRelay {
	s.mu.Lock()
	defer s.mu.Unlock()
	relays := make([]*tcpRelay, 0, s.count)
	for t := s.relays; t != nil; t = t.next {
		relays = append(relays, t)
	}
	return relays
}

// leave ends the relay if its backend is b. It reports whether it is. A client that
// still waits for the first byte of b is sent to the next backend if it can be.
func (t *tcpRelay) leave(b *upstream.Backend, why stream.Reason) bool {
	t.mu.Lock()
	if t.search != nil && t.search.trying == b {
		defer t.mu.Unlock()
		t.search.stop(cutError{why})
		return true
	}
	served := t.backend == b && !t.ended
	t.mu.Unlock()
	if served {
		t.cut(why)
	}
	return served
}

// search is the search of a relay for a backend. It is guarded by tcpRelay.mu.
type search struct {
	cancel context.CancelCauseFunc // ends the search
	trying *upstream.Backend       // that is waited on for its first byte; nil: none
	stop   context.CancelCauseFunc // ends that wait
}

// startTrying registers the wait for the first byte of an attempt's backend, which
// stop ends.
func (t *tcpRelay) startTrying(a upstream.Attempt, stop context.CancelCauseFunc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.search != nil {
		t.search.trying, t.search.stop = a.Backend, stop
	}
	if t.relay.mustLeave(a) {
		stop(cutError{backendDown})
	}
}

// stopTrying ends startTrying.
func (t *tcpRelay) stopTrying() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.search != nil {
		t.search.trying, t.search.stop = nil, nil
	}
}

// mustLeave reports whether the client of an attempt that has connected must leave
// the backend again: it was demoted during the attempt, and leaveDown may have
// missed the client.
func (r *Relay) mustLeave(a upstream.Attempt) bool {
	if !r.opts.CutDown || !a.Backend.Down(upstream.TCP) {
		return false
	}
	select {
	case <-a.Demoted():
		return true
	default: // the attempt began after the demotion
		return false
	}
}

// leave makes the session choose a backend anew with its next datagram, if its
// backend is b. It reports whether it is.
func (s *session) leave(b *upstream.Backend) bool {
	defer s.guard()
	s.lock()
	defer s.unlock()
	if s.phase != open || s.attempt.Backend != b {
		return false
	}
	s.leaving = true
	return true
}

// moveLocked begins a new round for a session that is to leave its backend, unless
// that is still the first one to try. Unanswered datagrams are sent again.
func (s *session) moveLocked(now time.Time) {
	s.leaving = false
	if s.phase != open {
		return
	}
	walk := s.relay.service.Pool.Walk(upstream.UDP)
	if a, ok := walk.Next(now); !ok || a.Backend == s.attempt.Backend {
		return
	}
	s.startRoundLocked()
}

// leaveDown takes the clients of a demoted backend away from it, if on_down is cut.
// It does so on a goroutine, because its caller may hold locks and there may be many
// clients.
func (r *Relay) leaveDown(b *upstream.Backend, n upstream.Network) {
	if r.opts.CutDown {
		go r.leave(b, n, backendDown) // ends once the clients have left
	}
}

// leaveBehind takes the clients of all backends behind b away from them, after a
// failback has moved b to its configured position.
func (r *Relay) leaveBehind(b *upstream.Backend) {
	behind := false
	for _, other := range r.service.Pool.Undrained() {
		if behind {
			r.leave(other, networks, backendBehind)
		}
		behind = behind || other == b
	}
}

func (r *Relay) leave(b *upstream.Backend, n upstream.Network, why stream.Reason) {
	if tcp, udp := r.service.leaveBackend(b, n, why); tcp+udp > 0 {
		r.log.Info("clients taken away from backend", zap.String("backend", b.Text), zap.String("reason", string(why)), zap.Int("tcp", tcp), zap.Int("udp", udp))
	}
}

// drainLimits are the time limits of drained backends. The zero value has none.
type drainLimits struct {
	mu     sync.Mutex // guards the fields below
	timers map[*upstream.Backend]*time.Timer
	closed bool
}

// LimitDrain takes the clients of a drained backend away from it after d, unless it
// is resumed before. It replaces an earlier limit. done, if it is not nil, is called
// then with the number of TCP relays that were ended and of UDP sessions that move.
func (s *Service) LimitDrain(b *upstream.Backend, d time.Duration, done func(tcp, udp int)) {
	l := &s.drains
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopLocked(b)
	if l.closed {
		return
	}
	if l.timers == nil {
		l.timers = make(map[*upstream.Backend]*time.Timer)
	}
	var timer *time.Timer
	timer = time.AfterFunc(d, func() {
		l.mu.Lock()
		current := l.timers[b] == timer
		if current {
			delete(l.timers, b)
		}
		l.mu.Unlock()
		if !current {
			return
		}
		if slices.Contains(s.Pool.Undrained(), b) {
			return // resumed while the drain was requested
		}
		if tcp, udp := s.leaveBackend(b, networks, backendDrain); done != nil {
			done(tcp, udp)
		}
	})
	l.timers[b] = timer
}

// stop ends the time limit of a backend, if there is one.
func (l *drainLimits) stop(b *upstream.Backend) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopLocked(b)
}

func (l *drainLimits) stopLocked(b *upstream.Backend) {
	if timer := l.timers[b]; timer != nil {
		timer.Stop()
		delete(l.timers, b)
	}
}

// close ends all time limits, and lets none begin from now on.
func (l *drainLimits) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for b := range l.timers {
		l.stopLocked(b)
	}
}
