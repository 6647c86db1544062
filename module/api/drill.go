package api

import "time"

// DrillRequest is the body of a request that starts a drill.
type DrillRequest struct {
	Fault string `json:"fault"`           // refuse, silent, reset or slow
	For   string `json:"for,omitempty"`   // a duration, at most 1h; default 60s
	Force bool   `json:"force,omitempty"` // also if no other backend is available
}

// Drill is a drill of a backend, and its figures so far.
type Drill struct {
	Service string    `json:"service"`
	Backend string    `json:"backend"`
	Fault   string    `json:"fault"`
	Running bool      `json:"running"`
	Began   time.Time `json:"began"`
	Ends    time.Time `json:"ends"` // when it ends by itself, or has ended
	Strikes int       `json:"strikes"`
	Moved   int       `json:"clients_moved"`   // that met the fault and were served by another backend
	Slowest float64   `json:"slowest_ms"`      // from the arrival of such a client to its connection; UDP: to the first answer
	Reset   int       `json:"clients_reset"`   // that met the fault and could not be sent to another backend
	Refused int       `json:"clients_refused"` // that met the fault
}
