package page

import (
	"net/http"

	"github.com/async-relay/caddy-relay/module/api"
)

// Relays is the access to the running relays, which package module implements. Its
// dynamic type must be comparable: handlers with equal Relays share one hub.
type Relays interface {
	// Endpoints returns the endpoints of the admin API that the page serves too.
	Endpoints() []Endpoint

	// Services returns all services, in the order in which the page lists them.
	Services() []Service

	// DNS returns the names of all DNS caches.
	DNS() []api.DNSEntry
}

// Service is a service at one moment.
type Service struct {
	Key     string // its identity across reloads; may contain secrets, so it is not sent to anybody
	Entries uint64 // number of entries that its journal ever had
	api.Service

	// Journal returns the entries that were added after the first n, the oldest
	// first, as far as they are kept.
	Journal func(n uint64) []api.JournalEntry
}

// Endpoint is an endpoint of the admin API.
type Endpoint struct {
	Method  string
	Pattern string // for http.ServeMux: "/relay/services/{service}/reset"
	Handle  func(*http.Request) (any, error)
}
