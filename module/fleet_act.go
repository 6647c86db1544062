package module

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/fleet"
	"github.com/async-relay/caddy-relay/upstream"
)

// fleetActor does what this process must do because of other nodes. The member calls
// it, one action at a time. What it does is not shared again: only what the admin API
// does is.
type fleetActor struct{}

func (f *fleetActor) act(a fleet.Action) {
	switch a.Do {
	case fleet.Suspect:
		if s, b, n := f.find(a.Target); b != nil && s.Suspect(b, n, "node "+a.Node) {
			processLog().Info("backend suspected", zap.String("service", s.Name), zap.Stringer("network", n), zap.String("backend", b.Text), zap.String("node", a.Node))
		}
	case fleet.Unsuspect:
		if s, b, n := f.find(a.Target); b != nil {
			s.Pool.Unsuspect(b, n)
		}
	case fleet.Repeat:
		f.repeat(a.Operation)
	}
}

// find returns the service and the backend of a target; nil if this process does not
// have them.
func (f *fleetActor) find(t fleet.Target) (*service, *upstream.Backend, upstream.Network) {
	n := upstream.TCP
	if t.Network == upstream.UDP.String() {
		n = upstream.UDP
	}
	s := sharedService(t.Service)
	if s == nil {
		return nil, nil, n
	}
	return s, s.Pool.Backend(t.Backend), n
}

// repeat repeats an operation of another node.
func (f *fleetActor) repeat(o fleet.Operation) {
	s := sharedService(o.Service)
	if s == nil {
		return
	}
	var b *upstream.Backend
	if o.Backend != "" {
		if b = s.Pool.Backend(o.Backend); b == nil {
			return
		}
	}
	changed, err := s.repeat(o, b)
	fields := []zap.Field{zap.String("action", actionOf(o)), zap.String("node", o.Node), zap.String("remote", o.By), zap.String("service", s.Name)}
	if b != nil {
		fields = append(fields, zap.String("backend", b.Text))
	}
	switch {
	case err != nil:
		processLog().Warn("change of another node not repeated", append(fields, zap.Error(err))...)
	case changed:
		processLog().Info("changed by another node", fields...)
	}
}

// repeat does an operation here. b is its backend, if it has one. It reports whether
// that changed anything.
func (s *service) repeat(o fleet.Operation, b *upstream.Backend) (changed bool, err error) {
	by, left := operatorOn(o), time.Duration(o.Left)*time.Millisecond
	switch o.Kind {
	case fleet.Drain:
		changed, err = s.SetDrained(b, o.On, by)
		if limit := time.Duration(o.CutAfter) * time.Millisecond; err == nil && o.On && limit > 0 {
			s.limitDrain(b, min(limit, maxDrainLimit))
		}
		return changed, err
	case fleet.Reset:
		s.Reset(by)
		fleetChanged() // nothing is down here any more
		return true, nil
	case fleet.Hold:
		if !o.On {
			return s.Release(by), nil
		}
		s.Hold(left, by)
		return true, nil
	case fleet.Drill:
		if !o.On {
			return s.StopDrill(b, by), nil
		}
		if !slices.Contains(handler.Faults, handler.Fault(o.Fault)) {
			return false, fmt.Errorf("unknown fault %q: a newer version of the relay has it", o.Fault)
		}
		_, err = s.StartDrill(b, handler.Fault(o.Fault), left, o.Force, by)
		return err == nil, err
	}
	return false, errors.New("unknown kind of operation")
}

// actionOf returns the name of an operation in logs, as the admin API has it.
func actionOf(o fleet.Operation) string {
	switch {
	case o.On, o.Kind == fleet.Reset:
		return string(o.Kind)
	case o.Kind == fleet.Drain:
		return string(handler.KindResume)
	case o.Kind == fleet.Hold:
		return "release"
	default:
		return "drill_stop"
	}
}
