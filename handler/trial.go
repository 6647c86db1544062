package handler

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file holds the options rescue and first_byte_timeout: an attempt on a
// backend then lasts until its first byte, not until it has accepted the
// connection. See [stream.Trial].

// RescueLimit is the memory in bytes for the kept bytes of all clients of a
// process.
const RescueLimit = 64 << 20

// errNotReplayable is the error of a client whose backend has failed and that
// cannot be sent to another one.
var errNotReplayable = errors.New("the client's bytes were not kept")

// trials reports whether an attempt lasts until the backend's first byte.
func (o *Options) trials() bool { return o.Rescue > 0 || o.FirstByte > 0 }

func (o *Options) trialLimits() stream.TrialLimits {
	return stream.TrialLimits{Keep: o.Rescue, FirstByte: o.FirstByte, Memory: o.RescueMemory}
}

// try makes a connection prove that its backend answers, if an option demands it,
// and returns the outcome of the attempt with that. It lasts until the backend's
// first byte.
func (t *attempts) try(ctx context.Context, o outcome) outcome {
	switch {
	case t.trial == nil:
		return o
	case o.drill.resets():
		_ = o.conn.Close()
		o.err = errDrillReset
		t.tried++
		return o
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t.of.startTrying(o.attempt, cancel)
	o.conn, o.err = t.trial.Try(ctx, o.conn.(*net.TCPConn))
	t.of.stopTrying()
	if o.err != nil {
		o.took = time.Since(o.attempt.Began)
		t.tried++
	} else if t.tried > 0 {
		t.relay.service.rescues.Add(1)
	}
	return o
}

// trialEnded reports whether a failed attempt ends the search, because its client
// has left or cannot be sent to another backend. The failure is recorded then.
func (t *attempts) trialEnded(ctx context.Context, o outcome) (ended bool, err error) {
	switch {
	case t.trial == nil:
		return false, nil
	case errors.Is(o.err, stream.ErrClientReset):
		return true, errClientGone
	case ctx.Err() != nil:
		return true, context.Cause(ctx)
	case errors.Is(o.err, stream.ErrTrialEnded): // by a panic
		return true, o.err
	case t.trial.Replayable():
		return false, nil
	case errors.As(o.err, new(cutError)): // it had to leave the backend
		return true, o.err
	}
	t.relay.recordFailure(&t.walk, o, upstream.TCP, t.of.client)
	return true, fmt.Errorf("backend %s: %w, and %w", o.attempt.Backend.Text, o.err, errNotReplayable)
}
