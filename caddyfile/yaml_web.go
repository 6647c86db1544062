package caddyfile

import "net/netip"

// The settings of async-relay's web page are checked as async-relay does, and
// then ignored with a warning, because the page is not supported.

var defaultWebListen = listenAddress{"127.0.0.1", netip.AddrFrom4([4]byte{127, 0, 0, 1}), 8088}

// readWebUI also rejects a page whose address conflicts with a service.
// async-relay cannot bind both, so such a file never worked.
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
			at.fail("tcp on %s conflicts with %s on line %d, which listens on %s", listen, s.label, s.line, s.listen)
			return
		}
	}
	v.warn("ignored: the web page is not supported, so nothing listens on %s; "+
		"use GET /relay/services of Caddy's admin API", listen)
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
			f.required(key, what)
		case enabled:
			v.rawText(what)
		}
	}
}
