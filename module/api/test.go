package api

// TestRequest is the body of a request that tests an address.
type TestRequest struct {
	Address string `json:"address"`           // host:port, need not be in a config
	Service string `json:"service,omitempty"` // whose probe and DNS servers are used; absent: a TCP connect, and the system's resolver
}

// Test is the result of a test of a backend.
type Test struct {
	Service string       `json:"service"` // empty: a test of an address with the settings of no service
	Backend string       `json:"backend"`
	OK      bool         `json:"ok"`              // at least one address passed on each tested network
	Check   string       `json:"check"`           // the probe in words: that of the health check, or a connect
	Error   string       `json:"error,omitempty"` // of the lookup
	Lookup  float64      `json:"lookup_ms"`       // 0 for an IP address
	Dials   []TestedDial `json:"dials"`

	Untested map[string]string `json:"untested,omitempty"` // reasons, by network of the service
}

// TestedDial is the result of a test of one address.
type TestedDial struct {
	Network string  `json:"network"`
	Address string  `json:"address"`
	OK      bool    `json:"ok"`
	Latency float64 `json:"latency_ms"` // until the address passed or failed
	Error   string  `json:"error,omitempty"`
}
