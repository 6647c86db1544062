package page

import (
	"net/http"

	"github.com/async-relay/caddy-relay/module/api"
)

// Relays is the access to the running relays, which package module implements.
type Relays interface {
	// Endpoints returns the endpoints of the admin API that the page serves too.
	Endpoints() []Endpoint

	// Services returns all services as the admin API shows them.
	Services() []api.Service
}

// Endpoint is an endpoint of the admin API.
type Endpoint struct {
	Method  string
	Pattern string // "/relay/services/{service}/reset"
	Handle  func(*http.Request) (any, error)
}
