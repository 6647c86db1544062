package api

import "time"

// DNSEntry describes a name in a DNS cache. Services that differ in dns_ttl,
// resolvers, prefer or only have separate caches, so a name can have several entries.
type DNSEntry struct {
	Host      string    `json:"host"` // srv/NAME: an SRV backend, whose addresses are targets, host:port
	Source    DNSSource `json:"source"`
	Addresses []string  `json:"addresses"`
	Resolved  time.Time `json:"resolved_at,omitzero"`
	Age       float64   `json:"age_seconds"`
	TTLLeft   float64   `json:"ttl_left_seconds"`
	Error     string    `json:"error,omitempty"` // of the last query, if it failed
	TTL       float64   `json:"ttl_seconds"`
	Resolvers []string  `json:"resolvers,omitempty"` // absent: the system's resolver
}

// DNSSource is the origin of the addresses of a DNS entry.
type DNSSource string

// The sources of addresses.
const (
	DNSFresh DNSSource = "fresh"
	DNSStale DNSSource = "stale" // expired or flushed; the next use queries the name again
	DNSNone  DNSSource = "none"  // the name has never resolved
)

// Flush is the result of a flush of the DNS caches.
type Flush struct {
	Flushed int `json:"flushed"` // entries that were fresh, or a remembered failure
	Known   int `json:"known"`   // entries of that name, or of all names
}
