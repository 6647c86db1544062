package module

import (
	"context"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/upstream"
)

// newHealthCheck converts the options of a health check. It returns nil if the
// backends are not probed.
func newHealthCheck(opts caddyfile.Options) *handler.HealthCheck {
	h := opts.HealthCheck
	if h == nil {
		return nil
	}
	check := &handler.HealthCheck{
		Interval: h.Interval, Timeout: h.Timeout, Rise: h.Rise,
		Send: h.Send, Expect: h.Expect, Failback: opts.Failback,
	}
	if h.TCP {
		check.Networks = append(check.Networks, upstream.TCP)
	}
	if h.UDP {
		check.Networks = append(check.Networks, upstream.UDP)
	}
	return check
}

// restartProbesLocked stops the probes of the previous settings and starts those
// of the current ones.
func (s *service) restartProbesLocked() {
	if s.stopProbes != nil {
		s.stopProbes()
		s.stopProbes = nil
	}
	current := s.current.Load()
	if current == nil || current.check == nil || current.relay == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stopProbes = cancel
	go current.relay.CheckHealth(ctx, *current.check) // returns after stopProbes
}
