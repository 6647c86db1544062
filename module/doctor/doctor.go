// Package doctor checks a config and the machine that is to run it, for the command
// `caddy relay doctor`. Its results are for people and for scripts. It changes
// nothing: it binds ports for an instant, and probes backends like a health check.
//
// The package promises no API.
package doctor

import (
	"context"
	"fmt"
	"net/http"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/module/api"
)

// Status is the result of a check.
type Status string

// The results of a check. Only StatusFail makes a report fail.
const (
	StatusOK   Status = "ok"
	StatusWarn Status = "warn" // it works, and may stop working or lose something
	StatusFail Status = "fail"
)

// Check is the result of one check.
type Check struct {
	// What was checked: config, port, descriptors, sysctl, dns, backend, stop or
	// clock.
	Check string `json:"check"`

	// The result: ok, warn or fail.
	Status Status `json:"status"`

	// What was found.
	Message string `json:"message"`

	// What to do. Empty if there is nothing to do.
	Advice string `json:"advice,omitempty"`
}

// Report holds all checks in their order.
type Report struct {
	// Whether no check failed.
	OK bool `json:"ok"`

	// The checks in their order.
	Checks []Check `json:"checks"`
}

// Failed returns the number of checks that failed.
func (r Report) Failed() (n int) {
	for _, c := range r.Checks {
		if c.Status == StatusFail {
			n++
		}
	}
	return n
}

// Tester tests a backend by the health check of its relay, or by a connect. networks
// are those that the relay listens on, "tcp" and "udp". It returns within the
// timeouts of the relay.
type Tester func(ctx context.Context, relay caddyfile.Options, networks []string, backend caddyfile.Backend) api.Test

// Options tell what to check.
type Options struct {
	File    string   // the config; empty: that of the running Caddy, or the Caddyfile of the working directory
	Adapter string   // of the file; empty: known by its name
	Targets []string // backends to test, as host:port

	Request func(method, path string, response any) error // to the admin API of the running Caddy
	Admin   string                                        // its address, for messages
	Test    Tester
}

// examination collects the checks of a report.
type examination struct {
	Options
	checks  []Check
	plan    plan // what the config wants
	running plan // what the running Caddy has; empty without one
	pid     int  // of the Caddy that holds one of the ports; 0: none is known
	ctx     context.Context
}

// Run checks all that opts tell. It returns within the timeouts of the backends and
// some seconds.
func Run(ctx context.Context, opts Options) Report {
	e := &examination{Options: opts, ctx: ctx}
	e.checkConfig()
	e.checkPorts()
	e.checkDescriptors()
	e.checkSysctls()
	e.checkBackends()
	e.checkStop()
	e.checkClock()
	r := Report{Checks: e.checks}
	r.OK = r.Failed() == 0
	return r
}

func (e *examination) add(status Status, check, advice, format string, args ...any) {
	e.checks = append(e.checks, Check{Check: check, Status: status, Message: fmt.Sprintf(format, args...), Advice: advice})
}

func (e *examination) ok(check, format string, args ...any) {
	e.add(StatusOK, check, "", format, args...)
}

func (e *examination) warn(check, advice, format string, args ...any) {
	e.add(StatusWarn, check, advice, format, args...)
}

func (e *examination) fail(check, advice, format string, args ...any) {
	e.add(StatusFail, check, advice, format, args...)
}

// runningConfig returns the config of the running Caddy, or nil if none answers.
func (e *examination) runningConfig() (config map[string]any) {
	if e.Request == nil || e.Request(http.MethodGet, "/config/", &config) != nil {
		return nil
	}
	return config
}
