package asyncrelay

import (
	"errors"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/async-relay/caddy-relay/caddyfile"
)

// readHealthCheck sets the health check of the service unless its backends are not
// to be probed. async-relay probes TCP backends by connecting, and never probes UDP
// backends; the keys that it does not have change that.
func readHealthCheck(v value, s *service) {
	f, ok := v.mapping(healthCheckKeys...)
	if !ok {
		return
	}
	enabled := f.enabled(false)
	interval := caddyfile.DefaultHealthInterval
	readable := true
	if v, ok := f.get("interval"); ok {
		interval, readable = v.seconds(false)
	}
	timeout := min(caddyfile.DefaultHealthTimeout, interval)
	if v, ok := f.get("timeout"); ok {
		var read bool
		if timeout, read = v.seconds(false); read && readable && timeout > interval {
			v.fail("must be at most the interval of %s, got %s", caddyfile.FormatDuration(interval), caddyfile.FormatDuration(timeout))
			timeout = interval
		}
	}
	with := caddyfile.Config{HealthCheck: &caddyfile.HealthCheck{Interval: known(interval), Timeout: known(timeout)}}
	more := f.readOptions(&with, "health_check.")
	_, stated := f.get("enabled")
	switch {
	case !enabled && more && !stated:
		v.warn("ignored: not enabled; add enabled: true")
	case !enabled:
	case !s.tcp && !more:
		v.warn("ignored: a UDP backend is probed only with network: udp and send, dns or http")
	case !s.tcp && with.HealthCheck.Network != "udp" && with.HealthCheck.Network != "both":
		f.failOnce("network", errors.New("must be udp, because the service has protocol: udp"))
	default:
		s.config.HealthCheck = with.HealthCheck
	}
}

// known returns a duration, or nil if it could not be read.
func known(d time.Duration) *caddy.Duration {
	if d <= 0 {
		return nil
	}
	return pointer(d)
}
