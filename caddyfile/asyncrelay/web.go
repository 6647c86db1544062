package asyncrelay

import (
	"net/netip"
	"strings"

	"github.com/async-relay/caddy-relay/caddyfile"
)

var defaultWebListen = listenAddress{"127.0.0.1", netip.AddrFrom4([4]byte{127, 0, 0, 1}), 8088}

// maxPassword is the length of the longest password that bcrypt accepts, in bytes.
const maxPassword = 72

// webUI is the key web_ui: the address of the page and its login.
type webUI struct {
	listen listenAddress
	auth   *webAuth // nil: none
}

type webAuth struct {
	username, password string
}

// readWebUI returns nil if the page is not enabled. It rejects a page whose address
// conflicts with a service, because async-relay cannot bind both. It also rejects a
// page without a password that other machines can reach: such a page lets anybody
// in the network run commands, by way of event_hook.
func readWebUI(v value, services []service) *webUI {
	f, ok := v.mapping("enabled", "listen_address", "port", "auth")
	if !ok {
		return nil
	}
	enabled := f.enabled(false)
	web := &webUI{listen: defaultWebListen}
	at, address := f.value, f.value
	if v, ok := f.get("port"); ok {
		at = v
		web.listen.port, _ = v.port()
	}
	if v, ok := f.get("listen_address"); ok {
		address = v
		web.listen.host, web.listen.addr = readAddress(v)
	}
	authValid := true
	if v, ok := f.get("auth"); ok {
		web.auth, authValid = readWebAuth(v, enabled)
	}
	if !enabled {
		return nil
	}
	if web.auth == nil && authValid && web.listen.host != "" && !web.listen.loopback() {
		address.fail("must be a loopback address such as 127.0.0.1 while auth is not enabled, got %s: "+
			"the page can change the config and run commands; set auth, or listen on 127.0.0.1", caddyfile.Quoted(web.listen.host))
	}
	for _, s := range services {
		if s.tcp && web.listen.overlaps(s.listen) {
			at.fail("tcp on %s conflicts with %s on line %d, which listens on %s", web.listen, s.label, s.line, s.listen)
			break
		}
	}
	return web
}

// readWebAuth returns nil if the login is not enabled. valid is false if there are
// problems. pageEnabled tells whether there is a page to protect.
func readWebAuth(v value, pageEnabled bool) (auth *webAuth, valid bool) {
	f, ok := v.mapping("enabled", "username", "password")
	if !ok {
		return nil, false
	}
	_, user := f.get("username")
	_, password := f.get("password")
	problems := len(v.rep.problems)
	if !f.enabled(false) {
		if pageEnabled && (user || password) && len(v.rep.problems) == problems {
			v.warn("not enabled, so the page asks for no password; write enabled: true")
		}
		return nil, len(v.rep.problems) == problems
	}
	auth = &webAuth{username: f.credential("username"), password: f.credential("password")}
	return auth, len(v.rep.problems) == problems
}

// credential returns a user name or a password.
func (f fields) credential(key string) string {
	const what = "text, because auth is enabled"
	v, ok := f.required(key, what)
	if !ok {
		return ""
	}
	text, ok := v.secretText(what)
	switch {
	case !ok:
	case key == "username" && strings.Contains(text, ":"):
		v.fail("must not contain a colon, which ends the user name in a login")
	case key == "password" && len(text) > maxPassword:
		v.fail("must be at most %d bytes, got %d", maxPassword, len(text))
	}
	return text
}

// loopback reports whether only this machine can reach the address.
func (l listenAddress) loopback() bool { return l.addr.IsLoopback() || l.host == "localhost" }
