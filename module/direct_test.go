package module_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module"
)

// Clients bypass layer4 only if the first route of their server does nothing but
// pass them to the relay. They are served either way.
func TestDirect(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	echoUDP(t, "b", backend)
	relay := "relay " + backend + " {\n name %s\n }\n"
	for name, c := range map[string]struct {
		routes string // RELAY is replaced by the handler
		direct bool
	}{
		"a relay":                    {"route {\n RELAY }", true},
		"a route after the relay":    {"route {\n RELAY }\n route {\n echo\n }", true},
		"a matcher":                  {"@hi regexp ^hi 2\n route @hi {\n RELAY }", false},
		"a matcher of any address":   {"@all remote_ip 0.0.0.0/0\n route @all {\n RELAY }", false},
		"a matcher in a later route": {"@no regexp ^no 2\n route {\n RELAY }\n route @no {\n echo\n }", true},
		"a subroute":                 {"route {\n subroute {\n route {\n RELAY }\n }\n }", false},
		"two handlers":               {"route {\n throttle {\n read_bytes_per_second 1000000\n }\n RELAY }", false},
		"a route before":             {"@no regexp ^no 2\n route @no {\n echo\n }\n route {\n RELAY }", false},
	} {
		t.Run(name, func(t *testing.T) {
			tcp, udp := freeAddr(t), freeAddr(t)
			server := func(network, at string) string {
				handler := fmt.Sprintf(relay, network)
				return fmt.Sprintf("%s/%s {\n %s\n }\n", network, at, strings.ReplaceAll(c.routes, "RELAY", handler))
			}
			start(t, server("relay+tcp", tcp)+server("relay+udp", udp))
			for network, at := range map[string]string{"tcp": tcp, "udp": udp} {
				if got := module.GoesDirect("relay+"+network, at); got != c.direct {
					t.Errorf("%s: direct: %v, want %v", network, got, c.direct)
				}
				if got := ask(t, dial(t, network, at), "hi"); got != "b hi" {
					t.Errorf("%s: got %q", network, got)
				}
			}
		})
	}
}

// All servers of a config are found, in any order, and with any spelling of their
// address.
func TestDirectWithManyServers(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	var config string
	var all []string
	for i := range 20 {
		port := freePort(t)
		host := []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]"}[i%3]
		all = append(all, fmt.Sprintf("%s:%d", host, port))
		config += fmt.Sprintf("Relay+Tcp/%s:%d {\n route {\n relay %s {\n name s%d\n }\n }\n }\n", host, port, backend, i)
		config += block("relay+tcp/"+freeAddr(t), "echoes") // a server without a relay between them
		config = strings.ReplaceAll(config, "relay echoes", "echo")
	}
	start(t, config)
	for i, at := range all {
		if !module.GoesDirect("relay+tcp", at) {
			t.Errorf("server %d: not direct", i)
		}
		if got := ask(t, dial(t, "tcp", at), "hi"); got != "b hi" {
			t.Errorf("got %q", got)
		}
		if got := module.StatsOf(fmt.Sprintf("s%d", i)).Backends[0].Use[0].Connections; got != 1 {
			t.Errorf("service %d had %d connections", i, got)
		}
	}
}

// At DEBUG layer4 logs each client, so clients then pass through layer4. The level
// of other loggers does not matter: in all these tests the relay's own is at
// DEBUG.
func TestNotDirectAtDebug(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	at := freeAddr(t)
	file := t.TempDir() + "/log"
	startWith(t, fmt.Sprintf("log debug {\n include layer4\n output file %s\n level DEBUG\n }", file), block("relay+tcp/"+at, backend))
	if module.GoesDirect("relay+tcp", at) {
		t.Error("direct")
	}
	if got := ask(t, dial(t, "tcp", at), "hi"); got != "b hi" {
		t.Errorf("got %q", got)
	}
	relaytest.Eventually(t, "layer4's line", func() bool {
		text, _ := os.ReadFile(file)
		return strings.Contains(string(text), "started handling connection")
	})
}
