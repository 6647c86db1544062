package api

import "time"

// Explanation describes the queue of a service and lists the events that led to
// its current state.
type Explanation struct {
	Service  string         `json:"service"`
	Order    []string       `json:"order"`
	Backends []Backend      `json:"backends"`
	Check    string         `json:"health_check,omitempty"` // in words; absent if there is none
	Journal  []JournalEntry `json:"journal"`                // oldest first
}

// JournalEntry describes one thing that happened to a queue. Fields that do not
// apply to its kind are absent.
type JournalEntry struct {
	Time     time.Time `json:"time"`
	Kind     string    `json:"kind"`
	Network  string    `json:"network,omitempty"`
	Backend  string    `json:"backend,omitempty"`
	Address  string    `json:"address,omitempty"`
	Cause    string    `json:"cause,omitempty"`
	By       string    `json:"by,omitempty"`
	Order    []string  `json:"order,omitempty"`
	ByCheck  bool      `json:"by_check,omitempty"` // only a passed health check ends the strike or down
	Sentence string    `json:"sentence"`
}
