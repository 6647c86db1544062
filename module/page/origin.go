package page

import (
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
)

// crossOrigin rejects requests that a browser sends on behalf of another site. It
// reads Sec-Fetch-Site and, from browsers without it, compares Origin with Host.
// Requests with neither come from programs such as curl, which have no cookies or
// cached passwords that another site could use.
var crossOrigin http.CrossOriginProtection

// checkOrigin returns an error if the request could change something and was
// caused by a page of another origin.
func checkOrigin(r *http.Request) error { return crossOrigin.Check(r) }

// setHeaders sets the headers of all responses: nothing is loaded from elsewhere,
// no script runs that is not a file of the page, no other site can frame or read
// it, and nothing is cached, because all of it is the state of this moment.
func setHeaders(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cache-Control", "no-store")
}

func statusErrorf(status int, format string, args ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, args...)}
}

func errForbidden(err error) error {
	return statusErrorf(http.StatusForbidden, "request from another site rejected: %w", err)
}
