package module

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// A process that was replaced answers no request any more: its services have left, and
// the new process has them.
func TestAPIOfReplacedProcess(t *testing.T) {
	replaced.Store(true)
	defer replaced.Store(false)
	for _, e := range endpoints {
		err := e.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(e.method, "/relay/services", nil))
		var answer caddy.APIError
		if !errors.As(err, &answer) || answer.HTTPStatus != http.StatusServiceUnavailable {
			t.Errorf("%s: %v", e.pattern, err)
		}
	}
}
