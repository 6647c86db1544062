package module_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module/api"
)

// An upgrade hands over the order of backends, cooldowns, counters and DNS answers, also
// without remember. The new process serves while the DNS is dead.
func TestUpgradeKeepsTheState(t *testing.T) {
	dead, at, port := freeAddr(t), freeAddr(t), freePort(t)
	restartable(t, "127.0.0.2", port)
	z := startZone(t, "b.test. 300 IN A 127.0.0.2")
	named := fmt.Sprint("b.test:", port)
	u := startUpgradable(t, block("relay+tcp/"+at, dead+" "+named+" {\n name s\n cooldown 10m\n shutdown_timeout 200ms\n resolvers "+z.addr+"\n }"))
	for range 3 {
		client := dial(t, "tcp", at)
		if got := ask(t, client, "x"); got != "127.0.0.2 x" {
			t.Fatalf("answer %q", got)
		}
		client.Close()
	}
	state := func() (v api.Service) {
		u.must("GET", "services/s", &v)
		return v
	}
	var before api.Service
	relaytest.Eventually(t, "the clients to end", func() bool {
		before = state()
		return before.Active.TCP == 0 && before.Totals.BytesUp == 3
	})
	z.fail(true)
	u.mustUpgrade()
	after := state()
	if got, want := orderOf(after), []string{named, dead}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
	if got, want := after.Backends[1], before.Backends[1]; got.State != api.StateCooling || got.Cooling.Sub(want.Cooling).Abs() > time.Second {
		t.Errorf("%+v, want it to cool until %v", got, want.Cooling)
	}
	if after.Totals.Connections != before.Totals.Connections || after.Totals.BytesUp != before.Totals.BytesUp || after.Totals.BytesDown != before.Totals.BytesDown {
		t.Errorf("totals %+v, want %+v", after.Totals, before.Totals)
	}
	if got := ask(t, dial(t, "tcp", at), "x"); got != "127.0.0.2 x" {
		t.Errorf("answer %q while the DNS is dead", got)
	}
	for _, line := range u.lines("backend failed, first strike") {
		if !strings.Contains(fmt.Sprint(line["backend"]), dead) {
			t.Errorf("a strike after the upgrade: %v", line)
		}
	}
}
