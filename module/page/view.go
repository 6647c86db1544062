package page

import (
	"time"

	"github.com/async-relay/caddy-relay/module/api"
)

// This file has what the page gets as events: less than the admin API has, with
// short names and without zeros, because a thousand services may change at once.
// Times are in milliseconds since the Unix epoch, 0 for none.

// serviceView is a service.
type serviceView struct {
	ID       int               `json:"id"` // unique in the process; a service that was removed and added again has another one
	Name     string            `json:"name"`
	Shared   bool              `json:"shared,omitempty"` // other services have the same name, so none of them has actions
	Level    level             `json:"level"`
	Problems []string          `json:"problems,omitempty"`
	Notices  []string          `json:"notices,omitempty"`
	Listen   []string          `json:"listen,omitempty"`
	Check    string            `json:"check,omitempty"`
	Removed  bool              `json:"removed,omitempty"`
	Held     int               `json:"held,omitempty"`
	HeldTill int64             `json:"held_until,omitempty"`
	Refused  map[string]uint64 `json:"refused,omitempty"`
	Dropped  uint64            `json:"dropped,omitempty"`
	Evicted  uint64            `json:"evicted,omitempty"`
	Rates    rates             `json:"rates"`
	Backends []backendView     `json:"backends"`
}

// backendView is a backend of a service, in the order of the queue.
type backendView struct {
	Address    string        `json:"address"`
	Position   int           `json:"position,omitempty"`
	Configured int           `json:"configured,omitempty"`
	State      api.State     `json:"state"`
	Drill      string        `json:"drill,omitempty"`
	DrillEnds  int64         `json:"drill_until,omitempty"`
	IPs        []string      `json:"ips,omitempty"` // unless the address has one
	Networks   []networkView `json:"networks"`
	Failure    *failureView  `json:"failure,omitempty"`
}

// networkView is a backend on TCP or UDP. A network is left out where the service
// does not listen on it and nothing happened on it.
type networkView struct {
	Network     string    `json:"network"`
	State       api.State `json:"state"`
	Strikes     int       `json:"strikes,omitempty"`
	ByCheck     bool      `json:"by_check,omitempty"`
	Suspect     bool      `json:"suspect,omitempty"`
	DownSince   int64     `json:"down_since,omitempty"`
	Cooling     int64     `json:"cooling_until,omitempty"`
	Active      int       `json:"active,omitempty"`
	Connections uint64    `json:"connections,omitempty"`
	Failures    uint64    `json:"failures,omitempty"`
	Up          uint64    `json:"up,omitempty"`
	Down        uint64    `json:"down,omitempty"`
	P50         float64   `json:"p50,omitempty"` // milliseconds
	P99         float64   `json:"p99,omitempty"`
}

// failureView is the last failure of a backend.
type failureView struct {
	At   int64  `json:"at"`
	Text string `json:"text"`
}

// rates are per second.
type rates struct {
	Connections float64 `json:"connections,omitempty"`
	Up          float64 `json:"up,omitempty"`
	Down        float64 `json:"down,omitempty"`
	Failures    float64 `json:"failures,omitempty"`
}

// historyView is the history of a service, the oldest step first.
type historyView struct {
	Connections []uint64 `json:"connections"`
	Bytes       []uint64 `json:"bytes"`
	Failures    []uint64 `json:"failures"`
}

// entryView is an entry of a journal.
type entryView struct {
	At      int64  `json:"at"`
	Service int    `json:"service"`
	Kind    string `json:"kind"`
	Text    string `json:"text"` // a sentence without the time
}

// nameView is a name of the DNS caches.
type nameView struct {
	Host     string        `json:"host"`
	Source   api.DNSSource `json:"source"`
	IPs      []string      `json:"ips,omitempty"`
	Resolved int64         `json:"resolved,omitempty"`
	Expires  int64         `json:"expires,omitempty"`
	Error    string        `json:"error,omitempty"`
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// networkNames are the networks in the order of the page.
var networkNames = []string{"tcp", "udp"}

// newServiceView converts a service. Its id is set by the hub.
func newServiceView(s *Service, now counts, h *history) *serviceView {
	v := &serviceView{
		Name: s.Name, Listen: s.Listen, Check: s.Check, Removed: s.Removed,
		Held: s.Held, HeldTill: millis(s.HeldTill), Evicted: s.Evicted, Rates: h.rates(now),
		Backends: make([]backendView, len(s.Backends)),
	}
	for reason, n := range s.Refused {
		if n > 0 {
			if v.Refused == nil {
				v.Refused = make(map[string]uint64)
			}
			v.Refused[reason] = n
		}
	}
	for _, n := range s.Dropped {
		v.Dropped += n
	}
	for i := range s.Backends {
		v.Backends[i] = newBackendView(&s.Backends[i], s.Networks)
	}
	j := judge(&s.Service, h.refusedLately(now))
	v.Level, v.Problems, v.Notices = j.level, j.problems, j.notices
	return v
}

func newBackendView(b *api.Backend, listened []string) backendView {
	v := backendView{
		Address: b.Address, Position: b.Position, Configured: b.Configured, State: b.State,
		Drill: b.Drill, DrillEnds: millis(b.DrillEnds),
	}
	if len(b.Addresses) != 1 || !addressHas(b.Address, b.Addresses[0]) {
		v.IPs = b.Addresses
	}
	for _, name := range networkNames {
		if n, ok := b.Networks[name]; ok && shows(name, n, listened) {
			v.Networks = append(v.Networks, networkView{
				Network: name, State: n.State, Strikes: n.Strikes, ByCheck: n.ByCheck, Suspect: n.Suspect,
				DownSince: millis(n.DownSince), Cooling: millis(n.Cooling), Active: n.Active,
				Connections: n.Totals.Connections, Failures: n.Totals.Failures, Up: n.Totals.BytesUp, Down: n.Totals.BytesDown,
				P50: n.Connect.P50, P99: n.Connect.P99,
			})
		}
	}
	if b.Failure != nil {
		v.Failure = &failureView{At: b.Failure.At.UnixMilli(), Text: inWords(b.Failure.Error)}
	}
	return v
}

// shows reports whether a network of a backend is worth showing: the service
// listens on it, or something happened on it. If it is not known what the service
// listens on, TCP is always shown.
func shows(name string, n api.Network, listened []string) bool {
	for _, l := range listened {
		if l == name {
			return true
		}
	}
	return len(listened) == 0 && name == "tcp" || n.Active > 0 || n.Totals != (api.Totals{}) || n.Strikes > 0
}

func newEntryView(e api.JournalEntry, service int) entryView {
	return entryView{At: e.Time.UnixMilli(), Service: service, Kind: e.Kind, Text: sentence(e)}
}

func newNameView(e api.DNSEntry, now time.Time) nameView {
	v := nameView{Host: e.Host, Source: e.Source, IPs: e.Addresses, Resolved: millis(e.Resolved), Error: inWords(e.Error)}
	if e.TTLLeft > 0 {
		// Derived from the time of the answer, so that it does not change with each reading.
		v.Expires = e.Resolved.Add(time.Duration((e.Age + e.TTLLeft) * float64(time.Second))).Round(time.Second).UnixMilli()
	}
	return v
}

// stateWords are the states as the page names them.
var stateWords = map[api.State]string{
	api.StateUp:       "up",
	api.StateStruck:   "one strike",
	api.StateDown:     "down",
	api.StateCooling:  "cooling down",
	api.StateDraining: "draining",
	api.StateRemoved:  "removed",
}
