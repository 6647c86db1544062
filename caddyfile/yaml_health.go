package caddyfile

// readHealthCheck returns nil where no checks are to be made. The original
// connects to TCP backends and never probes the others.
func readHealthCheck(v value, tcp bool) *healthCheckJSON {
	f, ok := v.mapping("enabled", "interval", "timeout")
	if !ok {
		return nil
	}
	enabled := f.enabled(false)
	interval, timeout := DefaultHealthInterval, DefaultHealthTimeout
	readable := true
	if v, ok := f.get("interval"); ok {
		interval, readable = v.seconds(false)
	}
	at := f.value
	if v, ok := f.get("timeout"); ok {
		at = v
		if timeout, ok = v.seconds(false); !ok {
			readable = false
		}
	} else {
		at.at = at.at.key("timeout")
	}
	if readable && timeout > interval {
		at.fail("must be at most the interval of %s, got %s", duration(interval), duration(timeout))
	}
	switch {
	case !enabled:
		return nil
	case !tcp:
		v.rep.warn(v.line, v.at, "has no effect: a UDP backend is probed only with something to send and to expect, which this file can not say")
		return nil
	}
	return &healthCheckJSON{Interval: duration(interval), Timeout: duration(timeout)}
}
