package module

import (
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/upstream"
)

// requested finds the service and the backend in the path of a request.
func requested(r *http.Request) (*service, *upstream.Backend, error) {
	s, err := findService(r.PathValue("service"))
	if err != nil {
		return nil, nil, err
	}
	text := r.PathValue("backend")
	b := s.Pool.Backend(text)
	if b == nil {
		return nil, nil, errUnknown("backend", text, s.Pool.Order())
	}
	return s, b, nil
}

func postReset(r *http.Request) (any, error) {
	s, err := findService(r.PathValue("service"))
	if err != nil {
		return nil, err
	}
	s.Reset(requester(r))
	logOperation(r, "reset", zap.String("service", s.Name), zap.Strings("order", s.Pool.Order()))
	return s.apiService(time.Now()), nil
}

func postDrain(r *http.Request) (any, error) { return setDrained(r, true, handler.KindDrain) }

func postResume(r *http.Request) (any, error) { return setDrained(r, false, handler.KindResume) }

// setDrained drains or resumes a backend and returns its new state. If nothing
// changes, that is not an error, and it is neither logged nor recorded.
func setDrained(r *http.Request, drained bool, kind handler.Kind) (any, error) {
	s, b, err := requested(r)
	if err != nil {
		return nil, err
	}
	changed, err := s.SetDrained(b, drained, requester(r))
	switch {
	case errors.Is(err, upstream.ErrRemoved): // by a reload since the request came
		return nil, errUnknown("backend", b.Text, s.Pool.Order())
	case err != nil:
		return nil, apiErrorf(http.StatusConflict, "%s %s of %s: %w", kind, b.Text, s.Name, err)
	case changed:
		logOperation(r, string(kind), zap.String("service", s.Name), zap.String("backend", b.Text))
	}
	backend, ok := s.apiService(time.Now()).Backend(b.Text)
	if !ok {
		return nil, errUnknown("backend", b.Text, s.Pool.Order())
	}
	return backend, nil
}
