package api

import (
	"fmt"
	"slices"
	"time"
)

// Service describes a service at one moment.
type Service struct {
	Name     string            `json:"name"`
	Policy   string            `json:"policy"`
	Removed  bool              `json:"removed,omitempty"`  // no config has it; its last relays are ending
	Listen   []string          `json:"listen,omitempty"`   // the addresses of its layer4 servers, as written; absent if unknown
	Networks []string          `json:"networks,omitempty"` // tcp, udp: what it listens on; absent if unknown
	Backends []Backend         `json:"backends"`           // in queue order
	Active   Active            `json:"active"`
	Totals   Totals            `json:"totals"`
	Refused  map[string]uint64 `json:"refused"` // clients by reason
	Dropped  map[string]uint64 `json:"dropped_datagrams"`
	Evicted  uint64            `json:"evicted_sessions"`
	Held     int               `json:"held"`                   // clients that wait for a backend; they are active, too
	HeldTill time.Time         `json:"held_until,omitzero"`    // end of an operator's hold
	Check    string            `json:"health_check,omitempty"` // in words; absent if there is none
}

// Backend returns the backend with that configured address. It reports false if
// the service does not have it.
func (s Service) Backend(address string) (Backend, bool) {
	i := slices.IndexFunc(s.Backends, func(b Backend) bool { return b.Address == address })
	if i < 0 {
		return Backend{}, false
	}
	return s.Backends[i], true
}

// Backend describes a backend of a service.
type Backend struct {
	Address    string             `json:"address"`                       // as configured
	Position   int                `json:"position,omitempty"`            // in the queue, from 1; 0 if the config removed the backend
	Configured int                `json:"configured_position,omitempty"` // in the config, from 1; 0 if the config removed the backend
	State      State              `json:"state"`                         // the worst of its networks
	Strikes    int                `json:"strikes"`
	Cooling    time.Time          `json:"cooling_until,omitzero"`
	Networks   map[string]Network `json:"networks"`        // keys: tcp, udp
	Drill      string             `json:"drill,omitempty"` // the fault that a drill injects now
	DrillEnds  time.Time          `json:"drill_until,omitzero"`
	Addresses  []string           `json:"addresses"` // from the DNS cache, including stale ones
	Active     Active             `json:"active"`
	Totals     Totals             `json:"totals"`
	Failure    *Failure           `json:"last_failure,omitempty"`
	Connect    Quantiles          `json:"connect_ms"` // of the slower network
}

// Network describes a backend on TCP or UDP.
type Network struct {
	State     State     `json:"state"`
	Strikes   int       `json:"strikes"`
	ByCheck   bool      `json:"by_check,omitempty"` // only a passed health check ends the strike or down
	Suspect   bool      `json:"suspect,omitempty"`  // another node of the fleet has demoted it, and this one has not tried it since
	DownSince time.Time `json:"down_since,omitzero"`
	Cooling   time.Time `json:"cooling_until,omitzero"`
	Active    int       `json:"active"`
	Totals    Totals    `json:"totals"`
	Failure   *Failure  `json:"last_failure,omitempty"`
	Connect   Quantiles `json:"connect_ms"`
}

// State is the condition of a backend in one word.
type State string

// The states of a backend, from the best to the worst.
const (
	StateUp       State = "up"
	StateStruck   State = "struck"   // one strike
	StateDown     State = "down"     // demoted, and has not succeeded since
	StateCooling  State = "cooling"  // down, and passed over until its cooldown ends
	StateDraining State = "draining" // gets no new clients, because an operator drained it
	StateRemoved  State = "removed"  // left the config, and still has relays
)

// states lists the states from the best to the worst.
var states = []State{StateUp, StateStruck, StateDown, StateCooling, StateDraining, StateRemoved}

// Worse reports whether s is a worse state than other.
func (s State) Worse(other State) bool {
	return slices.Index(states, s) > slices.Index(states, other)
}

// Active counts the relays that have not ended.
type Active struct {
	TCP int `json:"tcp"`
	UDP int `json:"udp"`
}

// String returns the counts in words.
func (a Active) String() string { return fmt.Sprintf("%d TCP and %d UDP active", a.TCP, a.UDP) }

// Totals counts what has passed since the service began.
type Totals struct {
	Connections uint64 `json:"connections"`
	Failures    uint64 `json:"failures"`
	Demotions   uint64 `json:"demotions"`
	BytesUp     uint64 `json:"bytes_up"`
	BytesDown   uint64 `json:"bytes_down"`
}

// Add adds the counts of other.
func (t *Totals) Add(other Totals) {
	t.Connections += other.Connections
	t.Failures += other.Failures
	t.Demotions += other.Demotions
	t.BytesUp += other.BytesUp
	t.BytesDown += other.BytesDown
}

// Failure describes a failed attempt.
type Failure struct {
	At      time.Time `json:"at"`
	Error   string    `json:"error"`
	Address string    `json:"address,omitempty"` // absent if the name did not resolve
}

// Quantiles describes the time to connect over the last five minutes, in
// milliseconds. It is 0 if there was no connection.
type Quantiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}
