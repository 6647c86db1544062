package module_test

import (
	"encoding/json"
	"fmt"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// Starting and reloading a config costs a service the same whether the config has
// a few services or many, and at most twice the memory of a server of caddy-l4's
// proxy. Allocations are counted, because they do not depend on the speed of the
// machine.
func TestLoadingIsLinear(t *testing.T) {
	if !canBind("127.1.0.2:" + fmt.Sprint(freePort(t))) {
		t.Skip("this system has 127.0.0.1 only, and the test needs an address for each service")
	}
	relay := func(i int) any {
		return map[string]any{"handler": "relay", "name": fmt.Sprintf("service%d", i), "backends": []string{"127.0.0.1:9", "127.0.0.2:9"}}
	}
	proxy := func(int) any {
		return map[string]any{"handler": "proxy", "upstreams": []any{map[string]any{"dial": []string{"127.0.0.1:9"}}}}
	}
	load := func(services int, n networks, handler func(i int) any) (start, reload costs) {
		config := manyServices(t, services, n, handler)
		defer func() { relaytest.Check(t, caddy.Stop()) }()
		run := func() costs {
			return costsOf(t, services, func() { relaytest.Check(t, caddy.Load(config, true)) })
		}
		return run(), run()
	}
	const few, many = 100, 400
	load(few, ours, relay) // fills the caches of the process
	startFew, reloadFew := load(few, ours, relay)
	startMany, reloadMany := load(many, ours, relay)
	startProxy, reloadProxy := load(many, caddys, proxy)
	for _, c := range []struct {
		what             string
		few, many, proxy costs
	}{{"start", startFew, startMany, startProxy}, {"reload", reloadFew, reloadMany, reloadProxy}} {
		t.Logf("%s with %d services: %v; with %d: %v; of caddy-l4's proxy: %v", c.what, few, c.few, many, c.many, c.proxy)
		if c.many.allocations > c.few.allocations*13/10 || c.many.bytes > c.few.bytes*13/10 {
			t.Errorf("%s: a service costs more among %d services than among %d", c.what, many, few)
		}
		if !raceDetector && c.many.bytes > 2*c.proxy.bytes {
			t.Errorf("%s: a service costs more than twice the memory of caddy-l4's proxy", c.what)
		}
	}
}

// costs are the costs of loading a config, for each of its services.
type costs struct{ allocations, bytes uint64 }

func (c costs) String() string {
	return fmt.Sprintf("%d allocations and %d bytes a service", c.allocations, c.bytes)
}

// costsOf returns the costs of load. It waits for the goroutines of the listeners,
// which allocate their buffers after load has returned.
func costsOf(t *testing.T, services int, load func()) costs {
	t.Helper()
	var before, last, now runtime.MemStats
	runtime.ReadMemStats(&before)
	load()
	relaytest.Eventually(t, "all listeners to be ready", func() bool {
		last = now
		time.Sleep(50 * time.Millisecond)
		runtime.ReadMemStats(&now)
		return now.Mallocs-last.Mallocs < 50
	})
	n := uint64(services)
	return costs{(now.Mallocs - before.Mallocs) / n, (now.TotalAlloc - before.TotalAlloc) / n}
}

// manyServices returns a config whose services listen on one port, each on its own
// address, over TCP and UDP.
func manyServices(t *testing.T, services int, n networks, handler func(i int) any) []byte {
	t.Helper()
	port := freePort(t)
	servers := make(map[string]any)
	for i := range services {
		at := net.JoinHostPort(fmt.Sprintf("127.1.%d.%d", i/250, i%250+1), fmt.Sprint(port))
		servers[fmt.Sprintf("server%d", i)] = map[string]any{
			"listen": []string{n.tcp + "/" + at, n.udp + "/" + at},
			"routes": []any{map[string]any{"handle": []any{handler(i)}}},
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
