package module_test

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module"
	"github.com/async-relay/caddy-relay/upstream"
)

// A backend that accepts and hangs is demoted by its health check although clients
// connect to it all the time, and their connects do not recover it. Once a reload
// removes the check, a connect does.
func TestChecksOutrankClients(t *testing.T) {
	hung := newCounted(t)
	at, name := freeAddr(t), unique("gray")
	config := func(check string) string {
		return block("relay+tcp/"+at, fmt.Sprintf("%s {\n name %s\n %s\n }", hung.addr, name, check))
	}
	s := start(t, config("health_check 300ms {\n send ping\n expect pong\n }"))
	stop := make(chan struct{})
	defer close(stop)
	go askRepeatedly(at, stop)
	state := func() upstream.NetworkStatus { return module.StatsOf(name).Backends[0].Networks[upstream.TCP] }
	relaytest.Eventually(t, "the demotion", func() bool { return state().State == upstream.Down })
	if n := len(s.lines("backend failed, first strike")); n != 1 {
		t.Errorf("%d first strikes", n)
	}
	served := state().Succeeded
	relaytest.Eventually(t, "more clients", func() bool { return state().Succeeded > served+10 })
	if got := state(); got.State != upstream.Down || !got.ByCheck {
		t.Errorf("%+v, want down by check", got)
	}
	for _, command := range []string{"status", "explain"} {
		if out := s.relay(command, name); !strings.Contains(out, "tcp down for 0s, until a health check passes") && !strings.Contains(out, "s, until a health check passes") {
			t.Errorf("%s:\n%s", command, out)
		}
	}
	if out := s.relay("explain", name); !strings.Contains(out, "health check: send and expect, on tcp, every 300ms") || !strings.Contains(out, "is down, order unchanged, until a health check passes") {
		t.Errorf("explain:\n%s", out)
	}
	s.mustReload(config(""))
	relaytest.Eventually(t, "the recovery by a client", func() bool { return state().State == upstream.Up })
}

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

// A service that listens on UDP alone and has no health check has nothing to test.
// With one that sends something, that is tested, on the port of the check.
func TestCommandTestNamesTheCheck(t *testing.T) {
	live, _ := echoUDP(t, "b", freeAddr(t))
	both, _ := echoTCP(t, "c")
	other, _ := echoUDP(t, "other", freeAddr(t))
	_, port, err := net.SplitHostPort(other)
	relaytest.Check(t, err)
	silent, probed, tcp := unique("silent"), unique("probed"), unique("tcp")
	s := start(t, block("relay+udp/"+freeAddr(t), live+" {\n name "+silent+"\n }")+
		block("relay+udp/"+freeAddr(t), fmt.Sprintf("%s {\n name %s\n health_check 1h {\n network udp\n send ping\n port %s\n }\n }", live, probed, port))+
		block("relay+udp/"+freeAddr(t)+" relay+tcp/"+freeAddr(t), fmt.Sprintf("%s {\n name %s\n health_check 1h {\n send ping\n expect \"c ping\"\n }\n }", both, tcp)))
	for _, test := range []struct {
		service, backend string
		want             []string
	}{
		{silent, live, []string{"UDP not tested: health_check has no send\n"}},
		{probed, live, []string{"check: send on port " + port + "\n", "udp  " + other + "  answered after "}},
		{tcp, both, []string{"check: send and expect\n", "tcp  " + both + "  answered after ", "UDP not tested: health_check.network is tcp\n"}},
	} {
		out, problems, status := run(t, []string{"CADDY_ADMIN=" + s.admin}, "relay", "test", test.service, test.backend)
		if status != 0 {
			t.Errorf("%s: status %d, %s", test.service, status, problems)
		}
		for _, want := range test.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: got\n%s\nwant %s", test.service, out, want)
			}
		}
	}
}
