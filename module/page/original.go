package page

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/async-relay/caddy-relay/caddyfile/asyncrelay"
	"github.com/async-relay/caddy-relay/module/api"
	"github.com/async-relay/caddy-relay/module/yamlfile"
)

// Original is what the API of async-relay needs of the running relays. Package module
// implements it.
type Original interface {
	// Status returns the state of all services in async-relay's shape.
	Status() api.OriginalStatus

	// Test tests an address "host:port", as if it were a backend of the service,
	// which may be "".
	Test(ctx context.Context, service, address string) (api.Test, error)

	// Health reports whether services are ready for clients. None stands for all.
	Health(services []string) api.Health
}

// maxBody limits the body of a request, in bytes.
const maxBody = 1 << 20

// originalRoutes returns the routes of async-relay's API, and the health endpoint.
func (p *Handler) originalRoutes() []route {
	return []route{
		{method: http.MethodGet, pattern: "/relay/health", handle: p.getHealth},
		{method: http.MethodGet, pattern: "/api/status", handle: p.getStatus},
		{method: http.MethodGet, pattern: "/api/config", handle: p.getConfig},
		{method: http.MethodGet, pattern: "/api/config/source", handle: p.getConfigSource},
		{method: http.MethodPut, pattern: "/api/config", changes: true, handle: p.putConfig},
		{method: http.MethodPost, pattern: "/api/config/reload", changes: true, handle: p.postConfigReload},
		{method: http.MethodPost, pattern: "/api/test-backend", changes: true, handle: p.postTestBackend},
	}
}

func (p *Handler) getHealth(w http.ResponseWriter, r *http.Request) error {
	health := p.original.Health(r.URL.Query()["service"])
	return writeJSON(w, health.Status(), health)
}

func (p *Handler) getStatus(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, p.original.Status())
}

// configResponse is the response of GET /api/config.
type configResponse struct {
	Config   json.RawMessage `json:"config"`
	Source   string          `json:"source"`
	Hash     string          `json:"hash,omitempty"`
	Editable bool            `json:"editable"`
	Reason   string          `json:"reason,omitempty"` // why it cannot be edited
}

// noFile is the reason why a config that was not made from a YAML file cannot be
// edited here: the edit would be lost at the next reload.
const noFile = "the config was not made from a YAML file of async-relay; edit the file that it was made from"

// sourceCaddy is the source of a config that was not made from a YAML file.
const sourceCaddy = "caddy"

func (p *Handler) getConfig(w http.ResponseWriter, _ *http.Request) error {
	if p.file == nil {
		config, err := json.Marshal(map[string]any{"services": p.configuredServices()})
		if err != nil {
			return err
		}
		return writeJSON(w, http.StatusOK, configResponse{Config: config, Source: sourceCaddy, Reason: noFile})
	}
	source, running, err := p.file.Source()
	if err != nil {
		return writeFailure(w, err)
	}
	config, err := source.JSON()
	if err != nil {
		return writeFailure(w, err)
	}
	response := configResponse{Config: config, Source: sourceName(source), Hash: source.Hash(), Editable: running && !p.ReadOnly}
	switch {
	case p.ReadOnly:
		response.Reason = "the page is read-only"
	case !running:
		response.Reason = "the file was edited and is not loaded yet"
	}
	w.Header().Set("ETag", `"`+response.Hash+`"`)
	return writeJSON(w, http.StatusOK, response)
}

// configuredServices returns the services of a config that was not made from a YAML
// file, as far as async-relay's file could express them.
func (p *Handler) configuredServices() []map[string]any {
	list := []map[string]any{}
	for _, s := range p.original.Status().Services {
		backends := slices.Clone(s.Details.Backends)
		slices.SortStableFunc(backends, func(a, b api.Backend) int { return a.Configured - b.Configured })
		texts := []string{}
		for _, b := range backends {
			if b.Configured > 0 {
				texts = append(texts, b.Address)
			}
		}
		service := map[string]any{"name": s.Name, "backends": texts}
		switch len(s.Details.Networks) {
		case 1:
			service["protocol"] = s.Details.Networks[0]
		case 2:
			service["protocol"] = "both"
		}
		if address, err := caddy.ParseNetworkAddress(s.Listen); err == nil && s.Listen != "" {
			service["listen"] = map[string]any{"address": address.Host, "port": address.StartPort}
		}
		list = append(list, service)
	}
	return list
}

// sourceName returns where settings come from, in the words of async-relay.
func sourceName(s asyncrelay.Source) string {
	if s.Edited {
		return asyncrelay.MetaSourceEdit
	}
	return asyncrelay.MetaSourceMain
}

func (p *Handler) getConfigSource(w http.ResponseWriter, _ *http.Request) error {
	if p.file == nil {
		return writeJSON(w, http.StatusOK, map[string]any{"source": sourceCaddy, "config_path": "", "runtime_path": "", "editable": false})
	}
	source, running, err := p.file.Source()
	if err != nil {
		return writeFailure(w, err)
	}
	return writeJSON(w, http.StatusOK, map[string]any{
		"source": sourceName(source), "config_path": source.Path, "runtime_path": source.Runtime,
		"hash": source.Hash(), "editable": running && !p.ReadOnly,
	})
}

// success is the response of a request that loaded a config.
type success struct {
	Status   string    `json:"status"`
	Message  string    `json:"message"`
	Source   string    `json:"source"`
	Hash     string    `json:"hash"`
	Warnings []warning `json:"warnings"`
}

type warning struct {
	File    string `json:"file,omitempty"` // absent if the line is one of the request
	Line    int    `json:"line,omitempty"`
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
}

func writeSuccess(w http.ResponseWriter, message string, source asyncrelay.Source, warnings []caddyconfig.Warning) error {
	response := success{Status: "success", Message: message, Source: sourceName(source), Hash: source.Hash(), Warnings: []warning{}}
	for _, w := range warnings {
		response.Warnings = append(response.Warnings, warning{w.File, w.Line, w.Directive, w.Message})
	}
	w.Header().Set("ETag", `"`+response.Hash+`"`)
	return writeJSON(w, http.StatusOK, response)
}

// putConfig replaces the settings. It does so only if they are those of If-Match, if
// the request has that header.
func (p *Handler) putConfig(w http.ResponseWriter, r *http.Request) error {
	if p.file == nil {
		return writeFailure(w, &yamlfile.ConflictError{Reason: noFile})
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return writeFailure(w, err)
	}
	source, warnings, err := p.file.Edit(body, matcher(r.Header), operator(r))
	if err != nil {
		return writeFailure(w, err)
	}
	return writeSuccess(w, "Configuration updated and reloaded", source, warnings)
}

// matcher returns a function that reports whether a hash is one of If-Match.
func matcher(h http.Header) func(hash string) bool {
	values := h.Values("If-Match")
	return func(hash string) bool {
		if len(values) == 0 {
			return true
		}
		for tag := range strings.SplitSeq(strings.Join(values, ","), ",") {
			if tag = strings.TrimSpace(tag); tag == "*" || tag == `"`+hash+`"` {
				return true
			}
		}
		return false
	}
}

// postConfigReload loads the file again. The edits made in the page are kept,
// unless the query has discard_edits=true.
func (p *Handler) postConfigReload(w http.ResponseWriter, r *http.Request) error {
	if p.file == nil {
		return writeFailure(w, &yamlfile.ConflictError{Reason: noFile})
	}
	discard := r.URL.Query().Get("discard_edits")
	if discard != "" && discard != "true" && discard != "false" {
		return writeJSON(w, http.StatusBadRequest, failure{Error: "discard_edits must be true or false", Field: "discard_edits", Reason: "must be true or false"})
	}
	source, warnings, err := p.file.Reload(discard == "true", operator(r))
	if err != nil {
		return writeFailureAs(w, err, http.StatusConflict) // the file has problems, not the request
	}
	message := "Configuration reloaded from config.yaml"
	if source.Edited {
		message = "Configuration reloaded from " + asyncrelay.RuntimeFile + ", which has the edits made in the page"
	}
	return writeSuccess(w, message, source, warnings)
}

// testResult is the response of POST /api/test-backend.
type testResult struct {
	Success bool     `json:"success"`
	Latency float64  `json:"latency_ms,omitempty"`
	Message string   `json:"message,omitempty"`
	Error   string   `json:"error,omitempty"`
	Test    api.Test `json:"test"`
}

func (p *Handler) postTestBackend(w http.ResponseWriter, r *http.Request) error {
	var request struct {
		Backend string `json:"backend"`
		Service string `json:"service"` // added: test with its probe and DNS servers
	}
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&request)
	invalid := func(text, field, reason string) error {
		return writeJSON(w, http.StatusBadRequest, failure{Error: text, Field: field, Reason: reason})
	}
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrongType):
		return invalid("Invalid backend format: not text", wrongType.Field, "must be text")
	case err != nil:
		return invalid("Invalid JSON in request body", "", err.Error())
	case request.Backend == "":
		return invalid("Backend address required", "backend", "is missing; expected host:port")
	}
	test, err := p.original.Test(context.WithoutCancel(r.Context()), request.Service, request.Backend)
	var apiError caddy.APIError
	if errors.As(err, &apiError) {
		field := "backend"
		if apiError.HTTPStatus == http.StatusNotFound {
			field = "service"
		}
		reason := strings.TrimPrefix(apiError.Err.Error(), "address: ")
		return writeJSON(w, apiError.HTTPStatus, failure{Error: "Invalid " + field + ": " + reason, Field: field, Reason: reason})
	}
	if err != nil {
		return err
	}
	result := testResult{Success: test.OK, Test: test}
	if test.OK {
		result.Latency = math.Round((test.Lookup+fastest(test.Dials))*100) / 100
		result.Message = "Connected to " + request.Backend
	} else {
		result.Error = testError(test)
	}
	return writeJSON(w, http.StatusOK, result)
}

// fastest returns the shortest latency of a test, in milliseconds.
func fastest(dials []api.TestedDial) float64 {
	shortest := math.Inf(1)
	for _, d := range dials {
		if d.OK {
			shortest = min(shortest, d.Latency)
		}
	}
	return shortest
}

// testError returns why a test failed, in the words of async-relay.
func testError(test api.Test) string {
	if test.Error != "" {
		return "DNS error: " + test.Error
	}
	for _, d := range test.Dials {
		if d.Error != "" {
			return d.Error
		}
	}
	return "nothing was tested"
}

// failure is the response of a request that changed nothing.
type failure struct {
	Error    string              `json:"error"` // all problems, one per line
	Reason   string              `json:"reason"`
	Field    string              `json:"field,omitempty"` // of the first problem, as is the line
	Line     int                 `json:"line,omitempty"`
	Problems asyncrelay.Problems `json:"problems,omitempty"`
}

// writeFailure writes the error of an access to the file.
func writeFailure(w http.ResponseWriter, err error) error {
	return writeFailureAs(w, err, http.StatusBadRequest)
}

// writeFailureAs is writeFailure with the status for settings that have problems.
func writeFailureAs(w http.ResponseWriter, err error, invalid int) error {
	body := failure{Error: err.Error(), Reason: err.Error()}
	status := http.StatusInternalServerError
	var problems asyncrelay.Problems
	var conflict *yamlfile.ConflictError
	var rejected *yamlfile.RejectedError
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &problems):
		status = invalid
		first := problems[0]
		body.Problems, body.Line, body.Field, body.Reason = problems, first.Line, first.Field, first.Reason
	case errors.As(err, &conflict) && conflict.Stale:
		status = http.StatusPreconditionFailed
	case errors.As(err, &conflict), errors.As(err, &rejected):
		status = http.StatusConflict
	case errors.As(err, &tooLarge):
		status = http.StatusRequestEntityTooLarge
	}
	return writeJSON(w, status, body)
}
