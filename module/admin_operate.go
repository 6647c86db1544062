package module

import (
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/upstream"
)

// chosen finds the service and the backend that a request is about.
func chosen(r *http.Request) (*service, *upstream.Backend, error) {
	s, err := named(r.PathValue("service"))
	if err != nil {
		return nil, nil, err
	}
	text := r.PathValue("backend")
	b := s.Pool.Backend(text)
	if b == nil {
		return nil, nil, unknown("backend", text, s.Pool.Order())
	}
	return s, b, nil
}

func postReset(r *http.Request) (any, error) {
	s, err := named(r.PathValue("service"))
	if err != nil {
		return nil, err
	}
	s.Reset(remote(r))
	tellOperation(r, "reset", zap.String("service", s.Name), zap.Strings("order", s.Pool.Order()))
	return s.view(time.Now()), nil
}

func postDrain(r *http.Request) (any, error) { return setDrained(r, true, handler.KindDrain) }

func postResume(r *http.Request) (any, error) { return setDrained(r, false, handler.KindResume) }

// setDrained answers with the backend as it is then. What is so already is no
// change, and no error.
func setDrained(r *http.Request, drained bool, kind handler.Kind) (any, error) {
	s, b, err := chosen(r)
	if err != nil {
		return nil, err
	}
	changed, err := s.SetDrained(b, drained, remote(r))
	switch {
	case errors.Is(err, upstream.ErrRemoved): // a reload was faster
		return nil, unknown("backend", b.Text, s.Pool.Order())
	case err != nil:
		return nil, apiErrorf(http.StatusConflict, "%s %s of %s: %w", kind, b.Text, s.Name, err)
	case changed:
		tellOperation(r, string(kind), zap.String("service", s.Name), zap.String("backend", b.Text))
	}
	view, ok := s.view(time.Now()).backend(b.Text)
	if !ok {
		return nil, unknown("backend", b.Text, s.Pool.Order())
	}
	return view, nil
}
