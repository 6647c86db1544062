package caddyfile

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// The features in this file are checked as the original checks them and then
// warned about, because this version does not have them.

const (
	defaultHealthInterval = 60 * time.Second
	defaultHealthTimeout  = 5 * time.Second
)

var defaultWebListen = listenAddress{"127.0.0.1", netip.AddrFrom4([4]byte{127, 0, 0, 1}), 8088}

var hookEvents = []string{"backend_failed", "backend_recovered", "all_backends_unavailable"}

func readHealthCheck(v value) {
	f, ok := v.mapping("enabled", "interval", "timeout")
	if !ok {
		return
	}
	enabled := readEnabled(f)
	interval, timeout := defaultHealthInterval, defaultHealthTimeout
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
	if enabled {
		v.rep.doesNotAct(v, "no health checks are made")
	}
}

func readEventHook(v value) {
	f, ok := v.mapping("command", "args", "events", "timeout")
	if !ok {
		return
	}
	if v, ok := f.need("command", "the command to run"); ok {
		v.word("the command to run")
	}
	if v, ok := f.get("args"); ok {
		args, _ := v.list("a list of arguments")
		for _, arg := range args {
			if s, ok := arg.scalar(); !ok || s.kind == scalarNull {
				arg.expected("text")
			}
		}
	}
	if v, ok := f.get("events"); ok {
		what := "one of " + strings.Join(hookEvents, ", ")
		events, _ := v.list("a list of events, each " + what)
		for _, event := range events {
			if name, ok := event.text(what); ok && !slices.Contains(hookEvents, name) {
				event.expected(what)
			}
		}
	}
	if v, ok := f.get("timeout"); ok {
		v.seconds(false)
	}
	v.rep.doesNotAct(v, "no command is run")
}

// readWebUI also refuses a page on a port that a service needs: the file can
// not have worked, and the service may not be the one that is meant.
func readWebUI(v value, services []service) {
	f, ok := v.mapping("enabled", "listen_address", "port", "auth")
	if !ok {
		return
	}
	enabled := readEnabled(f)
	listen := defaultWebListen
	at := f.value
	if v, ok := f.get("port"); ok {
		at = v
		listen.port, _ = v.port()
	}
	if v, ok := f.get("listen_address"); ok {
		listen.host, listen.addr = readAddress(v)
	}
	if v, ok := f.get("auth"); ok {
		readWebAuth(v)
	}
	if !enabled {
		return
	}
	for _, s := range services {
		if s.tcp && listen.overlaps(s.listen) {
			at.fail("tcp on %s is taken by %s on line %d, which listens on %s", listen, s.label, s.line, s.listen)
			return
		}
	}
	v.rep.doesNotAct(v, "there is no web page, nothing listens on "+listen.String())
}

func readWebAuth(v value) {
	f, ok := v.mapping("enabled", "username", "password")
	if !ok {
		return
	}
	enabled := readEnabled(f)
	for _, key := range []string{"username", "password"} {
		const what = "text, because auth is enabled"
		v, ok := f.get(key)
		switch {
		case enabled && !ok:
			f.need(key, what)
		case enabled:
			v.word(what)
		}
	}
}

// readEnabled takes true and false only. The original takes any text for true,
// "false" included.
func readEnabled(f fields) bool {
	v, ok := f.get("enabled")
	if !ok {
		return false
	}
	enabled, _ := v.truth()
	return enabled
}
