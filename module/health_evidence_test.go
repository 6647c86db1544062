package module_test

import (
	"fmt"
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
