package module

import (
	"context"

	"github.com/async-relay/caddy-relay/caddyfile"
	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/upstream"
)

// healthCheckOf is what the data path makes of the options; nil if backends are
// not probed.
func healthCheckOf(opts caddyfile.Options) *handler.HealthCheck {
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

// probeLocked has backends probed as the settings in force say, and no longer
// as those before them did.
func (s *service) probeLocked() {
	if s.probing != nil {
		s.probing()
		s.probing = nil
	}
	g := s.current.Load()
	if g == nil || g.check == nil || g.relay == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.probing = cancel
	go g.relay.CheckHealth(ctx, *g.check) // ends when other settings are in force, or none
}
