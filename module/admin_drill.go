package module

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/fleet"
	"github.com/async-relay/caddy-relay/module/api"
	"github.com/async-relay/caddy-relay/upstream"
)

// defaultDrill is how long a drill lasts if the request does not say.
const defaultDrill = time.Minute

func postDrill(r *http.Request) (any, error) {
	s, b, err := requested(r)
	if err != nil {
		return nil, err
	}
	var request api.DrillRequest
	body := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 4096))
	body.DisallowUnknownFields()
	if err := body.Decode(&request); err != nil && !errors.Is(err, io.EOF) {
		return nil, apiErrorf(http.StatusBadRequest, "body: %w", err)
	}
	fault := handler.Fault(request.Fault)
	if !slices.Contains(handler.Faults, fault) {
		return nil, apiErrorf(http.StatusBadRequest, "fault must be refuse, silent, reset or slow, got %q", request.Fault)
	}
	d, ok := boundedDuration(request.For, defaultDrill, handler.DrillLimit)
	if !ok {
		return nil, apiErrorf(http.StatusBadRequest, "for must be a duration such as 60s, at most %s, got %q", handler.DrillLimit, request.For)
	}
	by := requester(r)
	operation := fleet.Operation{Kind: fleet.Drill, Service: s.shareKey(), Backend: b.Text, By: by, On: true, Fault: string(fault), Force: request.Force, Left: d.Milliseconds()}
	var receipt handler.Receipt
	shared(operation, func() bool {
		receipt, err = s.StartDrill(b, fault, d, request.Force, by)
		return err == nil
	})
	if err != nil {
		return nil, apiErrorf(http.StatusConflict, "drill %s of %s: %w", b.Text, s.Name, err)
	}
	logOperation(r, "drill", zap.String("service", s.Name), zap.String("backend", b.Text), zap.String("fault", string(fault)), zap.Duration("for", d))
	return s.apiDrill(receipt), nil
}

func postDrillStop(r *http.Request) (any, error) {
	s, b, err := requested(r)
	if err != nil {
		return nil, err
	}
	by, stopped := requester(r), false
	shared(fleet.Operation{Kind: fleet.Drill, Service: s.shareKey(), Backend: b.Text, By: by}, func() bool {
		stopped = s.StopDrill(b, by)
		return true // it may run on another node
	})
	if stopped {
		logOperation(r, "drill_stop", zap.String("service", s.Name), zap.String("backend", b.Text))
	}
	return s.receiptOf(b)
}

func getDrill(r *http.Request) (any, error) {
	s, b, err := requested(r)
	if err != nil {
		if s, known := findService(r.PathValue("service")); known == nil { // a reload may have removed the backend
			if receipt, ok := s.LastDrill(r.PathValue("backend")); ok {
				return s.apiDrill(receipt), nil
			}
		}
		return nil, err
	}
	return s.receiptOf(b)
}

// receiptOf returns the running or latest drill of a backend.
func (s *service) receiptOf(b *upstream.Backend) (any, error) {
	receipt, ok := s.Drill(b)
	if !ok {
		return nil, apiErrorf(http.StatusNotFound, "no drill of %s", b.Text)
	}
	return s.apiDrill(receipt), nil
}

func (s *service) apiDrill(r handler.Receipt) api.Drill {
	return api.Drill{
		Service: s.Name, Backend: r.Backend, Fault: string(r.Fault), Running: r.Running, Began: r.Began, Ends: r.Ends,
		Strikes: r.Strikes, Moved: r.Moved, Slowest: handler.Milliseconds(r.Slowest), Reset: r.Reset, Refused: r.Refused,
	}
}
