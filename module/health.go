package module

import (
	"context"
	"fmt"
	"strings"

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
		Failback: opts.Failback != caddyfile.FailbackOff, Move: opts.Failback == caddyfile.FailbackMove,
		Port: h.Port, Send: h.Send, Framed: h.Framed, Expect: h.Expect,
	}
	if h.Port == 0 { // another port has another service behind it
		check.PROXY = handler.ProxyProtocol(opts.ProxyProtocol)
	}
	if h.HTTP != nil {
		check.HTTP = &handler.HTTPProbe{Path: h.HTTP.Path, Host: h.HTTP.Host}
		for _, r := range h.HTTP.Status {
			check.HTTP.Status = append(check.HTTP.Status, handler.StatusRange(r))
		}
	}
	if h.TCP {
		check.Networks = append(check.Networks, upstream.TCP)
	}
	if h.UDP {
		check.Networks = append(check.Networks, upstream.UDP)
	}
	return check
}

// describeCheck describes the health check, or returns "" if there is none.
func (g *settings) describeCheck() string {
	if g.check == nil {
		return ""
	}
	var networks []string
	for _, n := range g.check.Networks {
		networks = append(networks, n.String())
	}
	return fmt.Sprintf("%s, on %s, every %s", g.checkKind, strings.Join(networks, " and "), g.check.Interval)
}

// restartProbesLocked stops the probes of the previous settings and starts those
// of the current ones. What only a check could end ends by any success from now on
// where there is no such check any more.
func (s *service) restartProbesLocked() {
	if s.stopProbes != nil {
		s.stopProbes()
		s.stopProbes = nil
	}
	current := s.current.Load()
	for _, n := range []upstream.Network{upstream.TCP, upstream.UDP} {
		if current == nil || !current.check.Condemns(n) {
			s.Pool.ForgetChecks(n)
		}
	}
	if current == nil || current.check == nil || current.relay == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stopProbes = cancel
	go current.relay.CheckHealth(ctx, *current.check) // returns after stopProbes
}
