package handler

import (
	"net/netip"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// Event is a change of a service's backends that is reported to the observer of the
// service.
type Event struct {
	Type      EventType
	Time      time.Time
	Network   upstream.Network
	Backend   *upstream.Backend // nil for [AllBackendsUnavailable]
	Address   netip.Addr        // the address that was tried; invalid if there was none
	Failures  int               // strikes that led to the event
	Available int               // backends that are available now
	Total     int               // number of backends
	Drill     bool              // a drill of the backend is running
}

// EventType names an event, with the same words as async-relay's event hooks.
type EventType string

// The events.
const (
	BackendFailed          EventType = "backend_failed"
	BackendRecovered       EventType = "backend_recovered"
	AllBackendsUnavailable EventType = "all_backends_unavailable"
)

// announce passes the change that an attempt caused to the service's observer,
// as events.
func (s *Service) announce(change upstream.Change, o outcome, n upstream.Network) {
	if s.observe == nil {
		return
	}
	e := Event{
		Time: time.Now(), Network: n, Backend: o.attempt.Backend, Address: o.addr,
		Failures: change.Strike, Available: change.Available, Total: change.Total,
		Drill: s.drills.of(o.attempt.Backend) != nil,
	}
	switch {
	case change.Demoted:
		e.Type = BackendFailed
		s.observe(e)
	case change.Recovered:
		e.Type = BackendRecovered
		s.observe(e)
	}
	if change.AllUnavailable {
		e.Type, e.Backend, e.Address, e.Failures = AllBackendsUnavailable, nil, netip.Addr{}, 0
		s.observe(e)
	}
}
