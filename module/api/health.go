package api

import "net/http"

// Health is the response of the health endpoints.
type Health struct {
	OK      bool     `json:"ok"`
	Reasons []Reason `json:"reasons"` // empty if OK
}

// Status returns the HTTP status of the response: 200 if OK, else 503.
func (h Health) Status() int {
	if h.OK {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}

// Reason describes one reason for not sending clients to the relay.
type Reason struct {
	Reason  string `json:"reason"`            // one of the constants below
	Service string `json:"service,omitempty"` // absent if the reason is about the process
	Network string `json:"network,omitempty"` // tcp or udp, for no_backend
	Message string `json:"message"`           // in words
}

// The values of Reason.Reason.
const (
	ReasonStopping    = "stopping"        // the process exits
	ReasonNotRunning  = "not_running"     // no config with a relay runs
	ReasonUnknown     = "unknown_service" // no running config has the service
	ReasonAllDrained  = "all_drained"     // an operator drained every backend
	ReasonNoAvailable = "no_backend"      // no backend is up
)
