package module_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A listener's address can change to an overlapping one within one reload. The
// new config serves the next client.
func TestOverlappingAddressesChangeInOneReload(t *testing.T) {
	a, _ := echoTCP(t, "a")
	echoUDP(t, "a", a)
	b, _ := echoTCP(t, "b")
	echoUDP(t, "b", b)
	for _, change := range []struct{ network, one, two string }{
		{"tcp", "relay+tcp/127.0.0.1:%[1]d", "relay+tcp/:%[1]d"},
		{"tcp", "relay+tcp/127.0.0.1:%[1]d", "relay+tcp/0.0.0.0:%[1]d"},
		{"tcp", "relay+tcp/0.0.0.0:%[1]d", "relay+tcp/[::]:%[1]d"},
		{"tcp", "tcp/127.0.0.1:%[1]d", "relay+tcp/127.0.0.1:%[1]d"},
		{"tcp", "tcp/:%[1]d", "relay+tcp/:%[1]d"},
		{"tcp", "tcp/:%[1]d", "relay+tcp/127.0.0.1:%[1]d"},
		{"tcp", "relay+tcp/127.0.0.1:%[1]d-%[2]d", "relay+tcp/127.0.0.1:%[1]d-%[3]d"},
		{"udp", "relay+udp/127.0.0.1:%[1]d", "relay+udp/:%[1]d"},
		{"udp", "relay+udp/127.0.0.1:%[1]d", "relay+udp/0.0.0.0:%[1]d"},
		{"udp", "relay+udp/0.0.0.0:%[1]d", "relay+udp/[::]:%[1]d"},
		{"udp", "udp/127.0.0.1:%[1]d", "relay+udp/127.0.0.1:%[1]d"},
		{"udp", "udp/:%[1]d", "relay+udp/:%[1]d"},
		{"udp", "relay+udp/127.0.0.1:%[1]d-%[2]d", "relay+udp/127.0.0.1:%[1]d-%[3]d"},
	} {
		t.Run(change.one+" to "+change.two, func(t *testing.T) {
			port := freePorts(t, 3)
			at := fmt.Sprintf("127.0.0.1:%d", port)
			config := func(listen, backend, name string) string {
				return block(fmt.Sprintf(listen, port, port+1, port+2), backend+" {\n name "+name+"\n idle_timeout 1s\n }")
			}
			s := start(t, config(change.one, a, "one"))
			for range 2 {
				for listen, want := range map[string]string{change.two: "b", change.one: "a"} {
					s.mustReload(config(listen, map[string]string{"a": a, "b": b}[want], want))
					for i := range 10 {
						if got := keepAsking(t, dial(t, change.network, at), "x"); got != want+" x" {
							t.Errorf("client %d after the change to %s: got %q", i, listen, got)
						}
					}
				}
			}
		})
	}
}

// freePorts returns the first of n consecutive free ports.
func freePorts(t *testing.T, n int) (first int) {
	t.Helper()
	for range 100 {
		first = freePort(t)
		all := true
		for i := 1; i < n; i++ {
			all = all && freePort(t) == first+i
		}
		if all {
			return first
		}
	}
	t.Fatal("no free ports in a row")
	return 0
}

// Two configs whose port ranges overlap share the sockets of the ports in both.
func TestPortRanges(t *testing.T) {
	a, _ := echoTCP(t, "a")
	echoSource(t, a)
	port := freePorts(t, 5)
	at := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", port+i) }
	config := func(from, to int) string {
		r := fmt.Sprintf("127.0.0.1:%d-%d", port+from, port+to)
		return bothAt(r, a+" {\n name ranges\n }")
	}
	s := start(t, config(0, 2))
	tcp, udp := dial(t, "tcp", at(1)), dial(t, "udp", at(1))
	source := ask(t, udp, "who?")
	for range 2 {
		s.mustReload(config(1, 4))
		unserved(t, at(0))
		for i := 1; i <= 4; i++ {
			if got := ask(t, dial(t, "tcp", at(i)), "x"); got != "a x" {
				t.Errorf("port %d: got %q", i, got)
			}
			if got := ask(t, dial(t, "udp", at(i)), "x"); got == "" {
				t.Errorf("port %d: no answer", i)
			}
		}
		if got := ask(t, tcp, "still"); got != "a still" {
			t.Errorf("got %q", got)
		}
		if got := ask(t, udp, "who?"); got != source {
			t.Errorf("the session came from %s and now from %s", source, got)
		}
		s.mustReload(config(0, 2))
		unserved(t, at(4))
		if got := ask(t, dial(t, "tcp", at(0)), "x"); got != "a x" {
			t.Errorf("got %q", got)
		}
	}
}

// A config with an address that cannot be listened on is rejected with a reason,
// and the running config continues.
func TestAddressErrors(t *testing.T) {
	a, _ := echoTCP(t, "a")
	echoUDP(t, "a", a)
	b, _ := echoTCP(t, "b")
	at, other, held := freeAddr(t), freeAddr(t), freeAddr(t)
	startHolder(t, held)
	s := start(t, bothAt(at, a))
	relay := b + " {\n name rejected\n }"
	wildcard := ":" + strings.Split(held, ":")[1]
	for name, test := range map[string]struct{ config, want string }{
		"two servers, TCP":                  {block("relay+tcp/"+other, relay) + block("relay+tcp/"+other, relay), other + " is listed more than once"},
		"two servers, UDP":                  {block("relay+udp/"+other, relay) + block("relay+udp/"+other, relay), other + " is listed more than once"},
		"two servers, one of the running":   {block("relay+tcp/"+at, relay) + block("relay+tcp/"+at, relay), at + " is listed more than once"},
		"two spellings":                     {block("relay+tcp/"+strings.Replace(other, "127.0.0.1", "", 1), relay) + block("relay+tcp/"+strings.Replace(other, "127.0.0.1", "[::]", 1), relay), "is listed more than once"},
		"no port":                           {block("relay+tcp/127.0.0.1", relay), "a port from 1 to 65535"},
		"port 0":                            {block("relay+tcp/127.0.0.1:0", relay), "a port from 1 to 65535"},
		"no port, UDP":                      {block("relay+udp/127.0.0.1", relay), "a port from 1 to 65535"},
		"port 0, UDP":                       {block("relay+udp/:0", relay), "a port from 1 to 65535"},
		"port 65536":                        {block("relay+tcp/:65536", relay), "65536"},
		"held by another program, TCP":      {block("relay+tcp/"+held, relay), "holds tcp " + held},
		"held by another program, UDP":      {block("relay+udp/"+held, relay), "holds udp " + held},
		"held by another program, wildcard": {block("relay+tcp/"+wildcard, relay), "holds tcp " + held + "; list single addresses"},
		"held by another, UDP wildcard":     {block("relay+udp/"+wildcard, relay), "holds udp " + held + "; list single addresses"},
		"not an address of this host":       {block("relay+tcp/192.0.2.1:"+strings.Split(other, ":")[1], relay), "192.0.2.1"},
		"a name without address":            {block("relay+tcp/missing.invalid:"+strings.Split(other, ":")[1], relay), "missing.invalid"},
		"a range with a port that is held":  {block("relay+tcp/"+held+"-"+strings.Split(held, ":")[1], relay), "holds tcp " + held},
		"after a free one, held by another": {bothAt(at, relay) + block("relay+udp/"+held, relay), "holds udp " + held},
	} {
		t.Run(name, func(t *testing.T) {
			err := s.reload(test.config)
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error does not say %q: %v", test.want, err)
			}
			for _, network := range []string{"tcp", "udp"} {
				if got := ask(t, dial(t, network, at), "x"); got != "a x" {
					t.Errorf("the previous config, %s: got %q", network, got)
				}
			}
			relaytest.Eventually(t, "the other port to be free", func() bool { return canBind(other) })
		})
	}
}

// A config with an address on one of our networks and on one of Caddy's is rejected
// with an error that names both.
func TestAddressOnTwoNetworks(t *testing.T) {
	a, _ := echoTCP(t, "a")
	echoUDP(t, "a", a)
	at, other := freeAddr(t), freeAddr(t)
	port := strings.Split(other, ":")[1]
	running := bothAt(at, a)
	s := start(t, running)
	for name, test := range map[string]struct{ layer4, site, ours, caddys string }{
		"layer4, TCP":      {block("relay+tcp/"+other, a) + block("tcp/"+other, a), "", "relay+tcp/" + other, `layer4 server "srv2" lists tcp/` + other},
		"layer4, UDP":      {block("udp/"+other, a) + block("relay+udp/"+other, a), "", "relay+udp/" + other, `layer4 server "srv1" lists udp/` + other},
		"one server":       {block("relay+tcp/"+other+" "+other, a), "", "relay+tcp/" + other, `layer4 server "srv1" lists tcp/` + other},
		"a wider address":  {block("relay+tcp/"+other, a) + block("tcp/:"+port, a), "", "relay+tcp/" + other, `lists tcp/:` + port},
		"tcp4":             {block("relay+tcp/"+other, a) + block("tcp4/:"+port, a), "", "relay+tcp/" + other, `lists tcp/:` + port},
		"a range of ports": {block("relay+tcp/"+other, a) + block("tcp/127.0.0.1:"+port+"-"+port, a), "", "relay+tcp/" + other, `lists tcp/127.0.0.1:` + port},
		"HTTP":             {block("relay+tcp/:"+port, a), "http://:" + port, "relay+tcp/[::]:" + port, `HTTP server "srv0" lists tcp/:` + port},
		"HTTP/3":           {block("relay+udp/:"+port, a), "https://localhost:" + port + " {\n tls internal\n }", "relay+udp/[::]:" + port, `HTTP server "srv0" lists udp/:` + port},
	} {
		t.Run(name, func(t *testing.T) {
			err := s.reloadWithSite(running+test.layer4, test.site)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range []string{test.ours + ": ", strings.ReplaceAll(test.caddys, `"`, `\"`)} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
			for _, network := range []string{"tcp", "udp"} {
				if got := ask(t, dial(t, network, at), "x"); got != "a x" {
					t.Errorf("the previous config, %s: got %q", network, got)
				}
			}
		})
	}
}

// reloadWithSite loads a config with a layer4 block and an HTTP site. Without a
// layer4 block, it has nothing of the relay.
func (s *server) reloadWithSite(layer4, site string) error {
	s.t.Helper()
	if layer4 != "" {
		layer4 = " layer4 {\n" + layer4 + "\n}\n"
	}
	text := fmt.Sprintf("{\n admin %s\n persist_config off\n auto_https disable_redirects\n skip_install_trust\n%s}\n%s\n", s.admin, layer4, site)
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), nil)
	relaytest.Check(s.t, err)
	return s.post("/load", "application/json", config)
}

// A config without a relay can replace a relay's listener by one of Caddy's on the
// same port, and back.
func TestListenerBecomesCaddys(t *testing.T) {
	a, _ := echoTCP(t, "a")
	at, port := freeAddr(t), freePort(t)
	relays := block(fmt.Sprintf("relay+tcp/:%d", port), a) + block("relay+tcp/"+at, a)
	s := start(t, relays)
	site := fmt.Sprintf("http://:%d {\n respond site\n }", port)
	for range 2 {
		relaytest.Check(t, s.reloadWithSite("", site))
		// Caddy closes the listener of a site after the reload that removes it, and resets
		// the clients that it had accepted.
		relaytest.Eventually(t, "the site to serve", func() bool {
			response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
			if err != nil {
				return false
			}
			defer http.DefaultClient.CloseIdleConnections()
			defer response.Body.Close()
			text, err := io.ReadAll(response.Body)
			return err == nil && string(text) == "site"
		})
		s.mustReload(relays)
		relaytest.Eventually(t, "the relay to serve", func() bool { return serves(fmt.Sprintf("127.0.0.1:%d", port), "a x") })
	}
}
