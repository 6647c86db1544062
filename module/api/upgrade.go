package api

// Upgrade describes a process that has replaced another one.
type Upgrade struct {
	OldPID  int     `json:"old_pid"`
	NewPID  int     `json:"new_pid"`
	Seconds float64 `json:"seconds"`          // from the request until all new clients were served by the new process
	TCP     int     `json:"tcp"`              // relays that the old process still has
	UDP     int     `json:"udp"`              // sessions that the old process still has
	Timeout string  `json:"shutdown_timeout"` // of these: the longest, such as 10s
}
