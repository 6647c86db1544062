package handler

import (
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

// This file is the one place where what an attempt came to is booked in the
// queue and told to the operator: a change of state once, at the level that it
// deserves, everything else at DEBUG.

// succeeded books a success. again is one that was told of already: the next
// answer of a UDP backend that has answered this client before.
func (r *Relay) succeeded(walk *upstream.Walk, o outcome, n upstream.Network, client fmt.Stringer, now time.Time, again bool) {
	o.attempt.Backend.Prefer(n, o.addr)
	if change := walk.Succeeded(o.attempt, now); change.Recovered || !again {
		r.booked(change, o, n, client)
	}
}

// failed books a failure and says what the client does next. A failure of our
// own side is not the backend's, and there is nothing to try on it again.
func (r *Relay) failed(walk *upstream.Walk, o outcome, n upstream.Network, client fmt.Stringer) (upstream.Verdict, upstream.Change) {
	if errors.Is(o.err, errUnchanged) || dial.Class(o.err) != netio.Remote {
		walk.Exhaust(o.attempt.Backend)
		r.tell(zapcore.DebugLevel, "attempt not counted", o, n, client)
		return upstream.Next, upstream.Change{}
	}
	verdict, change := walk.FailedAt(o.attempt, time.Now(), o.err, o.at())
	r.booked(change, o, n, client)
	return verdict, change
}

// at is the address that was tried last; not valid if there was none.
func (o outcome) at() netip.AddrPort {
	if !o.addr.IsValid() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(o.addr, o.attempt.Backend.Port)
}

// booked tells what a report changed.
func (r *Relay) booked(change upstream.Change, o outcome, n upstream.Network, client fmt.Stringer) {
	r.service.Journal.booked(change, o, n, client)
	r.service.announce(change, o, n)
	switch {
	case change.Strike == 1:
		r.tell(zapcore.WarnLevel, "backend failed, first strike", o, n, client)
	case change.Strike == 2:
		r.tell(zapcore.WarnLevel, "backend failed, second strike", o, n, client)
	case change.Recovered:
		r.tell(zapcore.InfoLevel, "backend recovered", o, n, client, zap.Duration("down_for", change.DownFor))
	case o.err != nil:
		r.tell(zapcore.DebugLevel, "attempt failed", o, n, client)
	default:
		r.tell(zapcore.DebugLevel, "connected", o, n, client)
	}
	r.reordered(change)
	if !change.CoolingUntil.IsZero() {
		r.log.Info("backend cools down", zap.Stringer("network", n), zap.String("backend", o.attempt.Backend.Text), zap.Time("until", change.CoolingUntil))
	}
	if change.AllUnavailable {
		r.log.Error("all backends unavailable", zap.Stringer("network", n))
	}
}

// reordered tells the new order, where a change has brought one.
func (r *Relay) reordered(change upstream.Change) {
	if change.Order != nil {
		r.log.Info("order of backends changed", zap.Strings("order", change.Order))
	}
}

// tell writes one line about an attempt.
func (r *Relay) tell(level zapcore.Level, message string, o outcome, n upstream.Network, client fmt.Stringer, more ...zap.Field) {
	line := r.log.Check(level, message)
	if line == nil {
		return
	}
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
	if o.addr.IsValid() {
		fields = append(fields, zap.Stringer("address", netip.AddrPortFrom(o.addr, o.attempt.Backend.Port)))
	}
	if o.err != nil {
		fields = append(fields, zap.Error(o.err))
	}
	line.Write(append(fields, more...)...)
}
