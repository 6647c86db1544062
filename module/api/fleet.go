package api

import "time"

// Fleet describes the fleet of this instance, as it sees it.
type Fleet struct {
	Name    string       `json:"name"` // of the fleet
	Node    string       `json:"node"` // this instance
	Storage FleetStorage `json:"storage"`
	Nodes   []FleetNode  `json:"nodes"` // the other instances
}

// FleetStorage describes the storage of a fleet, and its use by this instance.
type FleetStorage struct {
	Error      string  `json:"error,omitempty"` // why it cannot be used; absent if it can
	FailingFor float64 `json:"failing_for_seconds,omitempty"`
	Reads      uint64  `json:"reads"` // operations of this instance so far
	Writes     uint64  `json:"writes"`
	Failed     uint64  `json:"failed"`
}

// FleetNode is another instance.
type FleetNode struct {
	Node     string      `json:"node"`
	Age      float64     `json:"age_seconds"`        // since its record has changed
	Vanished bool        `json:"vanished,omitempty"` // its record does not change any more
	Down     []FleetDown `json:"down,omitempty"`     // the backends that it has demoted
}

// FleetDown is a backend that another instance has demoted.
type FleetDown struct {
	Service string `json:"service"`
	Backend string `json:"backend"`
	Network string `json:"network"`
}

// AgeSpan returns the age as a duration.
func (n FleetNode) AgeSpan() time.Duration { return time.Duration(n.Age * float64(time.Second)) }
