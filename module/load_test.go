package module_test

import (
	"encoding/json"
	"fmt"
	"net"
	"runtime"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Starting and reloading a config costs a service the same whether the config has
// a few services or many. Allocations are counted, because their number does not
// depend on the speed of the machine.
func TestLoadingIsLinear(t *testing.T) {
	if !canBind("127.1.0.2:" + fmt.Sprint(freePort(t))) {
		t.Skip("this system has 127.0.0.1 only, and the test needs an address for each service")
	}
	const few = 100
	load := func(services int) (start, reload costs) {
		config := manyServices(t, services)
		defer func() { relaytest.Check(t, caddy.Stop()) }()
		run := func() costs {
			return costsOf(t, services, func() { relaytest.Check(t, caddy.Load(config, true)) })
		}
		return run(), run()
	}
	load(few) // fills the caches of the process
	startFew, reloadFew := load(few)
	startMany, reloadMany := load(4 * few)
	for _, c := range []struct {
		what      string
		few, many costs
	}{{"start", startFew, startMany}, {"reload", reloadFew, reloadMany}} {
		t.Logf("%s of %d services: %v; of %d: %v", c.what, few, c.few, 4*few, c.many)
		if c.many.allocations > c.few.allocations*13/10 || c.many.bytes > c.few.bytes*13/10 {
			t.Errorf("%s of %d services costs %v, of %d services %v: a service must not cost more among more services",
				c.what, few, c.few, 4*few, c.many)
		}
	}
}

// costs are the costs of loading a config, for each of its services.
type costs struct{ allocations, bytes uint64 }

func (c costs) String() string {
	return fmt.Sprintf("%d allocations and %d bytes a service", c.allocations, c.bytes)
}

// costsOf returns the costs of load.
func costsOf(t *testing.T, services int, load func()) costs {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	load()
	runtime.ReadMemStats(&after)
	n := uint64(services)
	return costs{(after.Mallocs - before.Mallocs) / n, (after.TotalAlloc - before.TotalAlloc) / n}
}

// manyServices returns a config whose services listen on one port, each on its own
// address, over TCP and UDP.
func manyServices(t *testing.T, services int) []byte {
	t.Helper()
	port := freePort(t)
	servers := make(map[string]any)
	for i := range services {
		at := net.JoinHostPort(fmt.Sprintf("127.1.%d.%d", i/250, i%250+1), fmt.Sprint(port))
		relay := map[string]any{"handler": "relay", "name": fmt.Sprintf("service%d", i), "backends": []string{"127.0.0.1:9", "127.0.0.2:9"}}
		servers[fmt.Sprintf("server%d", i)] = map[string]any{
			"listen": []string{"relay+tcp/" + at, "relay+udp/" + at},
			"routes": []any{map[string]any{"handle": []any{relay}}},
		}
	}
	config, err := json.Marshal(map[string]any{
		"admin":   map[string]any{"disabled": true, "config": map[string]any{"persist": false}},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"level": "ERROR"}}},
		"apps":    map[string]any{"layer4": map[string]any{"servers": servers}},
	})
	relaytest.Check(t, err)
	return config
}
