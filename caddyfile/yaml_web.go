package caddyfile

import "net/netip"

// The page of the original is checked as the original checks it, and then
// warned about, because there is none here.

var defaultWebListen = listenAddress{"127.0.0.1", netip.AddrFrom4([4]byte{127, 0, 0, 1}), 8088}

// readWebUI also refuses a page on a port that a service needs: the file can
// not have worked, and the service may not be the one that is meant.
func readWebUI(v value, services []service) {
	f, ok := v.mapping("enabled", "listen_address", "port", "auth")
	if !ok {
		return
	}
	enabled := f.enabled(false)
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
	v.rep.warn(v.line, v.at, "has no effect: there is no web page, nothing listens on %s; "+
		"GET /relay/services on Caddy's admin endpoint shows the services", listen)
}

func readWebAuth(v value) {
	f, ok := v.mapping("enabled", "username", "password")
	if !ok {
		return
	}
	enabled := f.enabled(false)
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
