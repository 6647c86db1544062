package module_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// A health check must probe a network on which its service listens.
func TestCheckOfANetworkWithoutListener(t *testing.T) {
	for name, test := range map[string]struct {
		listen, check, want string
	}{
		"udp alone":            {"relay+udp/127.0.0.1:1", "health_check", "tcp probes a service that listens on UDP alone (layer4 server \"srv0\" lists relay+udp/127.0.0.1:1); write network udp, and send, dns or http"},
		"udp alone, with send": {"udp/127.0.0.1:1", "health_check {\n send x\n }", "health_check.network: tcp probes a service that listens on UDP alone (layer4 server \"srv0\" lists udp/127.0.0.1:1); write network udp"},
		"udp alone, probed":    {"relay+udp/127.0.0.1:1", "health_check {\n network udp\n dns example.com\n }", ""},
		"udp alone, by http":   {"relay+udp/127.0.0.1:1", "health_check {\n network udp\n http /\n port 80\n }", ""},
		"udp alone, both":      {"relay+udp/127.0.0.1:1", "health_check {\n network both\n dns example.com\n }", ""},
		"both":                 {"relay+udp/127.0.0.1:1 relay+tcp/127.0.0.1:1", "health_check", ""},
		"tcp alone":            {"relay+tcp/127.0.0.1:1", "health_check", ""},
		"tcp alone, udp check": {"tcp/127.0.0.1:1", "health_check {\n network udp\n send x\n }", "udp probes a service that listens on TCP alone (layer4 server \"srv0\" lists tcp/127.0.0.1:1); write network tcp"},
		"a Unix socket":        {"unix//tmp/relay-test.sock", "health_check", ""},
		"no check":             {"relay+udp/127.0.0.1:1", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := validate(t, block(test.listen, "192.0.2.1:1 {\n name "+unique("probed")+"\n "+test.check+"\n }"))
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// The relay may be in a route of a subroute, and a service may have several
// servers. Those together decide.
func TestCheckOfAServiceInSeveralServers(t *testing.T) {
	name := unique("several")
	relay := fmt.Sprintf("192.0.2.1:1 {\n name %s\n health_check\n }", name)
	err := validate(t, block("relay+udp/127.0.0.1:1", relay)+block("relay+tcp/127.0.0.1:1", relay))
	relaytest.Check(t, err)
	nested := fmt.Sprintf("relay+udp/127.0.0.1:1 {\n route {\n subroute {\n route {\n relay %s\n }\n }\n }\n }\n", relay)
	if err := validate(t, nested); err == nil || !strings.Contains(err.Error(), "listens on UDP alone") {
		t.Errorf("%v", err)
	}
}
