package handler

import (
	"context"
	"errors"
	"slices"

	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file is the search of a TCP client for a backend, with the waits of a client
// that is held.

// find finds a backend for the client.
func (t *tcpRelay) find(ctx context.Context, from *startedAttempt) (outcome, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t.mu.Lock()
	t.search = &search{cancel: cancel}
	cut, was := t.err.(cutError)
	t.mu.Unlock()
	if was {
		cancel(cut)
	}
	o, err := t.findHeld(ctx, from)
	t.mu.Lock()
	t.search = nil
	t.mu.Unlock()
	return o, err
}

// findHeld is find with the waits of a client that is held.
func (t *tcpRelay) findHeld(ctx context.Context, from *startedAttempt) (outcome, error) {
	hold := holding{relay: t.relay, client: t, gone: t.mover.ClientReset}
	if from == nil {
		if err := hold.awaitRelease(ctx); err != nil {
			return outcome{}, err
		}
	}
	walk := t.relay.walk(upstream.TCP)
	for last := t.relay.opts.Hold == 0; ; {
		o, err := t.relay.connect(ctx, t, walk, from, hold.gone)
		var all allTriedError
		switch {
		case err == nil || !errors.As(err, &all):
			return o, err
		case last || errors.Is(err, errSameHost):
			all.drill.countRefused()
			return o, err
		}
		from, walk = nil, t.relay.walk(upstream.TCP)
		switch held := hold.awaitRecovery(ctx); {
		case held == nil:
		case held != errNotRecovered:
			return outcome{}, held
		case t.relay.service.condemned(upstream.TCP):
			last, walk = true, t.relay.service.Pool.Walk(upstream.TCP)
		default:
			all.drill.countRefused()
			return outcome{}, err
		}
	}
}

// walk returns the walk of a new client. With hold, clients wait rather than go to a
// backend that a check has condemned.
func (r *Relay) walk(n upstream.Network) upstream.Walk {
	w := r.service.Pool.Walk(n)
	if r.opts.Hold > 0 {
		w.PassOverCondemned()
	}
	return w
}

// condemned reports whether a check has condemned a backend that is not drained.
func (s *Service) condemned(n upstream.Network) bool {
	return slices.ContainsFunc(s.Pool.Undrained(), func(b *upstream.Backend) bool { return b.Condemned(n) })
}

// refuse ends the relay of a client without a backend.
func (t *tcpRelay) refuse(err error) {
	t.mu.Lock()
	t.err = err
	t.mu.Unlock()
	reason := stream.RefusedNoBackend
	var cut cutError
	switch {
	case errors.As(err, &cut): // cut ends the mover, too, but may come later
		reason = cut.reason
	case errors.Is(err, errClientGone):
		reason = stream.ClientReset
	case errors.Is(err, errStopping):
		reason = stream.Shutdown
	case errors.Is(err, errNotReplayable):
		reason = stream.NoFirstByte
	}
	t.mover.Cut(reason)
}
