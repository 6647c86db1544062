package caddyfile

// readHealthCheck returns nil if backends are not to be probed. async-relay
// probes TCP backends by connecting, and never probes UDP backends.
func readHealthCheck(v value, tcp bool) *healthCheckJSON {
	f, ok := v.mapping("enabled", "interval", "timeout")
	if !ok {
		return nil
	}
	enabled := f.enabled(false)
	interval := DefaultHealthInterval
	readable := true
	if v, ok := f.get("interval"); ok {
		interval, readable = v.seconds(false)
	}
	timeout := min(DefaultHealthTimeout, interval)
	if v, ok := f.get("timeout"); ok {
		var read bool
		if timeout, read = v.seconds(false); read && readable && timeout > interval {
			v.fail("must be at most the interval of %s, got %s", duration(interval), duration(timeout))
		}
	}
	switch {
	case !enabled:
		return nil
	case !tcp:
		v.warn("ignored: a UDP backend is probed only with a payload to send, which this file format does not have")
		return nil
	}
	return &healthCheckJSON{Interval: duration(interval), Timeout: duration(timeout)}
}
