package module_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Each reload logs one line with what it kept and what it changed.
func TestReloadIsLogged(t *testing.T) {
	var echoes []string
	for i := range 3 {
		addr, _ := echoTCP(t, fmt.Sprint(i))
		echoUDP(t, fmt.Sprint(i), addr)
		echoes = append(echoes, addr)
	}
	a, b, c := echoes[0], echoes[1], echoes[2]
	at, second, name, name2 := freeAddr(t), freeAddr(t), unique("logged"), unique("logged-too")
	config := func(web string, more string) string {
		return bothAt(at, web+" {\n name "+name+"\n }") + more
	}
	dns := func(backends string) string { return block("relay+tcp/"+second, backends+" {\n name "+name2+"\n }") }
	s := start(t, config(a+" "+b, ""))
	if got := s.lines("config reloaded"); len(got) != 0 {
		t.Errorf("the first load is no reload: %v", got)
	}
	dial(t, "tcp", at)
	relays := dial(t, "tcp", at)
	ask(t, relays, "x")
	ask(t, dial(t, "udp", at), "x")
	relaytest.Eventually(t, "both relays to be served", func() bool { return len(s.lines("connected")) == 3 })

	list := func(service string, backends ...string) string {
		var all []string
		for _, b := range backends {
			all = append(all, service+" "+b)
		}
		return "[" + strings.Join(all, " ") + "]"
	}
	for i, reload := range []struct {
		what, config          string
		services              int
		added, removed, moved string
	}{
		{"one added", config(a+" "+b+" "+c, ""), 1, list(name, c), "[]", "[]"},
		{"a new service", config(a+" "+b+" "+c, dns(b+" "+a)), 1, "[]", "[]", "[]"},
		{"one removed", config(a+" "+c, dns(b+" "+a)), 2, "[]", list(name, b), "[]"},
		{"two that change places", config(c+" "+a, dns(b+" "+a)), 2, "[]", "[]", "[" + sorted(name+" "+a, name+" "+c) + "]"},
		{"one for another", config(c+" "+a, dns(c+" "+a)), 2, list(name2, c), list(name2, b), "[]"},
		{"a service goes", config(c+" "+a, ""), 1, "[]", "[]", "[]"},
	} {
		s.mustReload(reload.config)
		lines := s.lines("config reloaded")
		if len(lines) != i+1 {
			t.Fatalf("%s: %d lines for %d reloads", reload.what, len(lines), i+1)
		}
		line := lines[i]
		if line["level"] != "info" || line["services_kept"] != float64(reload.services) || line["relays_kept"] != 2.0 || line["sessions_kept"] != 1.0 {
			t.Errorf("%s: %v", reload.what, line)
		}
		for field, want := range map[string]string{"backends_added": reload.added, "backends_removed": reload.removed, "backends_moved": reload.moved} {
			if got := fmt.Sprint(line[field]); got != want {
				t.Errorf("%s: %s is %s, want %s", reload.what, field, got, want)
			}
		}
	}
}

func sorted(a, b string) string {
	if b < a {
		a, b = b, a
	}
	return a + " " + b
}
