package module

import (
	"errors"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/fleet"
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

// maxDrainLimit is the longest time limit of a drain.
const maxDrainLimit = 24 * time.Hour

func postReset(r *http.Request) (any, error) {
	s, err := findService(r.PathValue("service"))
	if err != nil {
		return nil, err
	}
	by := requester(r)
	shared(fleet.Operation{Kind: fleet.Reset, Service: s.shareKey(), By: by}, func() bool {
		s.Reset(by)
		return true
	})
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
	limit, err := queryDuration(r, "cut_after", 0, maxDrainLimit)
	if err != nil {
		return nil, err
	}
	by, changed := requester(r), false
	operation := fleet.Operation{Kind: fleet.Drain, Service: s.shareKey(), Backend: b.Text, By: by, On: drained}
	if drained {
		operation.CutAfter = limit.Milliseconds()
	}
	shared(operation, func() bool {
		changed, err = s.SetDrained(b, drained, by)
		return err == nil
	})
	switch {
	case errors.Is(err, upstream.ErrRemoved): // by a reload since the request came
		return nil, errUnknown("backend", b.Text, s.Pool.Order())
	case err != nil:
		return nil, apiErrorf(http.StatusConflict, "%s %s of %s: %w", kind, b.Text, s.Name, err)
	case changed:
		logOperation(r, string(kind), zap.String("service", s.Name), zap.String("backend", b.Text))
	}
	if drained && limit > 0 {
		s.limitDrain(b, limit)
	}
	backend, ok := s.apiService(time.Now()).Backend(b.Text)
	if !ok {
		return nil, errUnknown("backend", b.Text, s.Pool.Order())
	}
	return backend, nil
}

// limitDrain takes the clients of a drained backend away from it after d.
func (s *service) limitDrain(b *upstream.Backend, d time.Duration) {
	s.LimitDrain(b, d, func(tcp, udp int) {
		processLog().Info("clients taken away from backend", zap.String("service", s.Name), zap.String("backend", b.Text), zap.String("reason", "backend_drained"), zap.Int("tcp", tcp), zap.Int("udp", udp))
	})
}

// defaultHold is how long a hold lasts if the request does not say.
const defaultHold = 30 * time.Second

func postHold(r *http.Request) (any, error) {
	s, err := findService(r.PathValue("service"))
	if err != nil {
		return nil, err
	}
	d, err := queryDuration(r, "for", defaultHold, handler.HoldLimit)
	if err != nil {
		return nil, err
	}
	by := requester(r)
	shared(fleet.Operation{Kind: fleet.Hold, Service: s.shareKey(), By: by, On: true, Left: d.Milliseconds()}, func() bool {
		s.Hold(d, by)
		return true
	})
	logOperation(r, "hold", zap.String("service", s.Name), zap.Duration("for", d))
	return s.apiService(time.Now()), nil
}

func postRelease(r *http.Request) (any, error) {
	s, err := findService(r.PathValue("service"))
	if err != nil {
		return nil, err
	}
	by, released := requester(r), false
	shared(fleet.Operation{Kind: fleet.Hold, Service: s.shareKey(), By: by}, func() bool {
		released = s.Release(by)
		return true // another node may still hold
	})
	if released {
		logOperation(r, "release", zap.String("service", s.Name))
	}
	return s.apiService(time.Now()), nil
}

// queryDuration returns the duration in a query parameter, def if there is none.
func queryDuration(r *http.Request, name string, def, limit time.Duration) (time.Duration, error) {
	text := r.URL.Query().Get(name)
	d, ok := boundedDuration(text, def, limit)
	if !ok {
		return 0, apiErrorf(http.StatusBadRequest, "query parameter %q must be a duration such as 30s, at most %s, got %q", name, limit, text)
	}
	return d, nil
}

// boundedDuration parses a duration above 0 and not above limit. It returns def if
// text is empty.
func boundedDuration(text string, def, limit time.Duration) (d time.Duration, ok bool) {
	if text == "" {
		return def, true
	}
	d, err := caddy.ParseDuration(text)
	return d, err == nil && d > 0 && d <= limit
}
