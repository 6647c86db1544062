package handler

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/upstream"
)

// This file holds TCP clients while no backend accepts them: for the option hold,
// or at an operator's request. A held client is not read from. session_hold.go holds
// UDP sessions.

// maxWakePause bounds the pause of a client that was woken up and found no backend:
// a backend that accepts connections and fails afterwards would otherwise be sent
// its clients every recheckEvery.
const maxWakePause = time.Second

var (
	errNotRecovered = errors.New("no backend recovered within hold")
)

// HoldLimit is the longest hold that an operator can request.
const HoldLimit = time.Hour

// holds are the clients of a service that wait for a backend, and the hold of an
// operator. The zero value holds nothing.
type holds struct {
	requested atomic.Bool  // an operator's hold is active: for callers without mu
	waiting   atomic.Int64 // held clients

	mu       sync.Mutex // guards the fields below
	until    time.Time  // end of the operator's hold; zero: none
	expiry   *time.Timer
	wake     chan struct{}         // closed when held clients are to look for a backend; nil: none waits
	recheck  [networks]rechecks    // the attempts on behalf of held clients
	sessions map[*session]struct{} // the held UDP sessions
	closed   bool
}

// Held returns the number of clients that wait for a backend.
func (s *Service) Held() int { return int(s.holds.waiting.Load()) }

// HeldUntil returns the end of an operator's hold; zero if there is none.
func (s *Service) HeldUntil() time.Time {
	s.holds.mu.Lock()
	defer s.holds.mu.Unlock()
	return s.holds.until
}

// Hold makes new clients wait, without an attempt on a backend, for d at most or
// until Release. d is at most [HoldLimit]. It replaces an earlier hold. by is where
// the request came from, for the journal.
func (s *Service) Hold(d time.Duration, by string) (until time.Time) {
	d = min(d, HoldLimit)
	until = time.Now().Add(d)
	h := &s.holds
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return time.Time{}
	}
	h.stopLocked()
	h.until = until
	h.requested.Store(true)
	var expiry *time.Timer
	expiry = time.AfterFunc(d, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.expiry == expiry {
			s.releaseLocked("")
		}
	})
	h.expiry = expiry
	s.Journal.Add(Entry{Kind: KindHold, Cause: "for " + d.String(), By: by})
	return until
}

// Release ends an operator's hold, and reports whether there was one.
func (s *Service) Release(by string) bool {
	s.holds.mu.Lock()
	defer s.holds.mu.Unlock()
	if !s.holds.requested.Load() {
		return false
	}
	s.releaseLocked(by)
	return true
}

func (s *Service) releaseLocked(by string) {
	s.holds.stopLocked()
	s.holds.wakeLocked()
	s.Journal.Add(Entry{Kind: KindRelease, By: by})
}

// stopLocked ends an operator's hold.
func (h *holds) stopLocked() {
	if h.expiry != nil {
		h.expiry.Stop()
	}
	h.expiry, h.until = nil, time.Time{}
	h.requested.Store(false)
}

// wakeUp makes all held clients look for a backend.
func (h *holds) wakeUp() {
	if h.waiting.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wakeLocked()
}

func (h *holds) wakeLocked() {
	if h.wake != nil {
		close(h.wake)
		h.wake = nil
	}
	h.wakeSessionsLocked()
}

// close refuses all held clients, and holds none from now on.
func (h *holds) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.stopLocked()
	h.wakeLocked()
}

// enter counts a held client, and returns a channel that is closed when the client
// is to look for a backend. The caller calls leave afterwards. port is the one that
// the client has addressed.
func (h *holds) enter(r *Relay, recheck bool, port uint16) (wake <-chan struct{}, err error) {
	current := recheck && !r.isRetired()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, errStopping
	}
	h.waiting.Add(1)
	if !recheck && !h.requested.Load() {
		return awake, nil // released since the caller looked
	}
	if h.wake == nil {
		h.wake = make(chan struct{})
	}
	if recheck {
		h.startRecheckLocked(r, upstream.TCP, current)
		h.recheck[upstream.TCP].enterPort(port)
	}
	return h.wake, nil
}

func (h *holds) isClosed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}

// awake is the channel of a client that does not have to wait.
var awake = func() chan struct{} {
	ch := make(chan struct{})
	close(ch)
	return ch
}()

// leave ends what enter has begun. It returns an error if the client is not to look
// for a backend any more.
func (h *holds) leave(recheck bool, port uint16) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if recheck {
		h.recheck[upstream.TCP].leavePort(port)
	}
	if h.waiting.Add(-1) == int64(len(h.sessions)) {
		h.recheck[upstream.TCP].end()
	}
	if h.closed {
		return errStopping
	}
	return nil
}

// holding is the hold of one client.
type holding struct {
	relay    *Relay
	client   *tcpRelay
	gone     func() bool
	deadline time.Time     // of the option hold; zero: the client was not held yet
	pause    time.Duration // after a wake that did not lead to a backend
}

// awaitRelease waits while an operator holds the service.
func (w *holding) awaitRelease(ctx context.Context) error {
	for w.relay.service.holds.requested.Load() {
		if _, err := w.await(ctx, false, nil); err != nil {
			return err
		}
	}
	return nil
}

// awaitRecovery waits until a backend may have recovered. It returns an error if
// the client is not to be held any longer.
func (w *holding) awaitRecovery(ctx context.Context) error {
	now := time.Now()
	if w.deadline.IsZero() {
		w.deadline = now.Add(w.relay.opts.Hold)
		w.relay.service.floods.note(w.relay.log, heldTCP, zap.Stringer("network", upstream.TCP), zap.Stringer("client", w.client.client))
	} else {
		w.pause = min(max(2*w.pause, recheckEvery), maxWakePause)
	}
	timeout := time.NewTimer(time.Until(w.deadline))
	defer timeout.Stop()
	woken, err := w.await(ctx, true, timeout.C)
	switch {
	case err != nil:
		return err
	case !woken:
		return errNotRecovered
	}
	return w.awaitRelease(ctx)
}

// await waits for the next wake, or until timeout fires: woken is false then. A
// client that was woken up in vain before ignores a wake during its pause until the
// end of that.
func (w *holding) await(ctx context.Context, recheck bool, timeout <-chan time.Time) (woken bool, err error) {
	holds := &w.relay.service.holds
	port := addrPortOf(w.client.local).Port()
	wake, err := holds.enter(w.relay, recheck, port)
	if err != nil {
		return false, err
	}
	var paused <-chan time.Time
	ready := wake
	if recheck && w.pause > 0 {
		paused, ready = time.After(w.pause), nil
	}
	began := time.Now()
	defer func() {
		if closed := holds.leave(recheck, port); err == nil {
			err = closed
		}
		w.client.noteHeld(time.Since(began))
	}()
	watch := time.NewTicker(watchEvery)
	defer watch.Stop()
	for {
		select {
		case <-ready:
			return true, nil
		case <-paused:
			ready = wake
		case <-timeout:
			return false, nil
		case <-watch.C:
			switch {
			case holds.isClosed():
				return false, errStopping
			case w.gone():
				return false, errClientGone
			}
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}
