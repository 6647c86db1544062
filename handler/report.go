package handler

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/internal/netio"
	"github.com/async-relay/caddy-relay/upstream"
)

// This file is the one place that records the results of attempts: in the
// queue, the journal, the events and the log. A change of the queue is logged
// once, at its own level; everything else is logged at DEBUG.

// recordSuccess records that the backend of an attempt serves the client.
// repeated marks a further answer of a UDP backend whose first answer to this
// client was recorded before: it is logged only if the backend recovers.
func (r *Relay) recordSuccess(walk *upstream.Walk, o outcome, n upstream.Network, client fmt.Stringer, now time.Time, repeated bool) {
	o.attempt.Backend.Prefer(n, o.addr)
	change := r.service.attemptSucceeded(walk, o, n, client, now)
	// Without a recovery there is nothing but a DEBUG line: skip the work for it.
	if change.Recovered || !repeated && r.log.Core().Enabled(zap.DebugLevel) {
		r.publish(change, o, n, client)
	}
}

// recordFailure records that an attempt failed, and returns what the client
// does next. A local failure, and a lookup that brought no new addresses, are
// no strike; the backend is exhausted for this client then, because a second
// attempt would fail in the same way. A local failure is logged once in an episode.
func (r *Relay) recordFailure(walk *upstream.Walk, o outcome, n upstream.Network, client fmt.Stringer) (upstream.Verdict, upstream.Change) {
	switch {
	case notMade(o.err), errors.As(o.err, new(cutError)), errors.Is(o.err, errSameHost):
		walk.Exhaust(o.attempt.Backend)
		r.logAttempt(zapcore.DebugLevel, "attempt not counted", o, n, client)
		return upstream.Next, upstream.Change{}
	case dial.Class(o.err) != netio.Remote:
		first := r.service.attemptFailedLocally(walk, o, n, client)
		r.logAttempt(zapcore.DebugLevel, "attempt not counted", o, n, client)
		if first && dial.Class(o.err) == netio.Local { // exhaustion has a line of its own
			r.service.floods.note(r.log, failedLocally, attemptFields(o, n, client)...)
		}
		return upstream.Next, upstream.Change{}
	}
	verdict, change := r.service.attemptFailed(walk, o, n, client)
	r.publish(change, o, n, client)
	return verdict, change
}

// at returns the address that was tried last; invalid if there was none.
func (o outcome) at() netip.AddrPort {
	if !o.addr.IsValid() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(o.addr, cmp.Or(o.port, o.attempt.Backend.Port))
}

// publish announces and logs what the result of an attempt changed.
func (r *Relay) publish(change upstream.Change, o outcome, n upstream.Network, client fmt.Stringer) {
	r.service.announce(change, o, n)
	if change.Recovered {
		r.service.holds.wakeUp()
	}
	var ends []zap.Field
	if change.ByCheck {
		ends = append(ends, zap.String("ends_by", healthCheckName))
	}
	switch {
	case change.Strike == 1:
		r.logAttempt(zapcore.WarnLevel, "backend failed, first strike", o, n, client, ends...)
	case change.Strike == 2:
		r.logAttempt(zapcore.WarnLevel, "backend failed, second strike", o, n, client, ends...)
	case change.Recovered:
		r.logAttempt(zapcore.InfoLevel, "backend recovered", o, n, client, zap.Duration("down_for", change.DownFor))
	case o.err != nil:
		r.logAttempt(zapcore.DebugLevel, "attempt failed", o, n, client)
	default:
		r.logAttempt(zapcore.DebugLevel, "connected", o, n, client)
	}
	r.logOrder(change)
	if drill := r.service.drills.of(o.attempt.Backend); drill != nil && change.Strike > 0 {
		drill.strikes.Add(1)
	}
	if change.Demoted {
		r.leaveDown(o.attempt.Backend, n)
	}
	if !change.CoolingUntil.IsZero() {
		r.log.Info("backend cooling down", zap.Stringer("network", n), zap.String("backend", o.attempt.Backend.Text), zap.Time("until", change.CoolingUntil))
	}
	if change.AllUnavailable {
		r.log.Error("all backends unavailable", zap.Stringer("network", n))
	}
}

// logOrder logs the new order of the backends if it changed.
func (r *Relay) logOrder(change upstream.Change) {
	if change.Order != nil {
		r.log.Info("backend order changed", zap.Strings("order", change.Order))
	}
}

// logAttempt writes one line about an attempt.
func (r *Relay) logAttempt(level zapcore.Level, message string, o outcome, n upstream.Network, client fmt.Stringer, more ...zap.Field) {
	line := r.log.Check(level, message)
	if line == nil {
		return
	}
	line.Write(append(attemptFields(o, n, client), more...)...)
}

// attemptFields returns the fields of a log line about an attempt.
func attemptFields(o outcome, n upstream.Network, client fmt.Stringer) []zap.Field {
	attempt := 1
	if o.attempt.Second() {
		attempt = 2
	}
	fields := append(make([]zap.Field, 0, 8),
		zap.Stringer("network", n),
		zap.Stringer("client", client),
		zap.String("backend", o.attempt.Backend.Text),
		zap.Int("attempt", attempt),
		zap.Duration("duration", o.took))
	if addr := o.at(); addr.IsValid() {
		fields = append(fields, zap.Stringer("address", addr))
	}
	if o.err != nil {
		fields = append(fields, zap.Error(o.err))
	}
	return fields
}
