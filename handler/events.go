package handler

import (
	"net/netip"
	"time"

	"github.com/async-relay/caddy-relay/upstream"
)

// Event is a change of a service's backends that somebody outside may want to
// be told of.
type Event struct {
	Type      EventType
	Time      time.Time
	Network   upstream.Network
	Backend   *upstream.Backend // nil for [AllBackendsUnavailable]
	Address   netip.Addr        // the one that was tried; not valid if there was none
	Failures  int               // strikes that made it so
	Available int               // backends that work, by now
	Total     int               // backends
}

// EventType names an event as the original's hooks do.
type EventType string

// The events.
const (
	BackendFailed          EventType = "backend_failed"
	BackendRecovered       EventType = "backend_recovered"
	AllBackendsUnavailable EventType = "all_backends_unavailable"
)

// announce tells the service's observer what a report changed.
func (s *Service) announce(change upstream.Change, o outcome, n upstream.Network) {
	if s.observe == nil {
		return
	}
	e := Event{
		Time: time.Now(), Network: n, Backend: o.attempt.Backend, Address: o.addr,
		Failures: change.Strike, Available: change.Available, Total: change.Total,
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
