package api

import "time"

// The response of GET /api/status, in the shape of async-relay with fields added.
type (
	// OriginalStatus describes all services.
	OriginalStatus struct {
		TotalServices int               `json:"total_services"`
		DNSCache      OriginalDNSCache  `json:"dns_cache"`
		Services      []OriginalService `json:"services"`
	}

	// OriginalDNSCache describes the DNS caches, together.
	OriginalDNSCache struct {
		TotalEntries int     `json:"total_entries"`
		TTLSeconds   float64 `json:"ttl_seconds"` // the longest one
	}

	// OriginalService describes a service.
	OriginalService struct {
		Name    string        `json:"name"`
		Listen  string        `json:"listen"` // the first address as host:port; "" if unknown
		Stats   OriginalStats `json:"stats"`
		Pool    OriginalPool  `json:"backend_pool"`
		Details Service       `json:"details"` // added: as in GET /relay/services
	}

	// OriginalStats counts the traffic of a service since it started. Sent is from
	// clients to backends, received the opposite.
	OriginalStats struct {
		TCPConnections   uint64 `json:"tcp_connections"`
		TCPActive        int    `json:"tcp_active"`
		TCPBytesSent     uint64 `json:"tcp_bytes_sent"`
		TCPBytesReceived uint64 `json:"tcp_bytes_received"`
		UDPPackets       uint64 `json:"udp_packets"` // from clients
		UDPBytesSent     uint64 `json:"udp_bytes_sent"`
		UDPBytesReceived uint64 `json:"udp_bytes_received"` // async-relay adds those that are sent

		UDPActive int `json:"udp_active"` // added
	}

	// OriginalPool describes the queue of a service.
	OriginalPool struct {
		Service            string            `json:"service"`
		TotalBackends      int               `json:"total_backends"`
		HealthCheckEnabled bool              `json:"health_check_enabled"`
		Backends           []OriginalBackend `json:"backends"`
	}

	// OriginalBackend describes a backend. Positions and indexes begin at 0.
	OriginalBackend struct {
		Position      int      `json:"position"`
		Host          string   `json:"host"`
		Port          uint16   `json:"port"`
		ResolvedIPs   []string `json:"resolved_ips"`
		Failures      int      `json:"failures"` // strikes
		OriginalIndex int      `json:"original_index"`

		State   State     `json:"state"`                  // added, as the fields below
		Cooling time.Time `json:"cooling_until,omitzero"` // end of the cooldown
		Failure *Failure  `json:"last_failure,omitempty"`
	}
)
