package module_test

import (
	"fmt"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// The admin API exports the metrics without any option. It exports those of the
// process even if the config has no relay.
func TestMetricsNeedNoConfig(t *testing.T) {
	s := start(t, "")
	now := s.scrape()
	for _, name := range []string{`dns_lookups_total{result="ok"}`, `dropped_datagrams_total{reason="listener",service=""}`} {
		if _, ok := now[metricPrefix+name]; !ok {
			t.Errorf("%s is not there", name)
		}
	}
}

// A Caddy site can export the metrics, with the admin API on or off.
func TestMetricsOnASite(t *testing.T) {
	for _, admin := range []string{"off", freeAddr(t)} {
		t.Run("admin "+admin, func(t *testing.T) {
			backend, _ := echoTCP(t, "b")
			at, site, name := freeAddr(t), freeAddr(t), newName("on-a-site")
			text := fmt.Sprintf("{\n admin %s\n persist_config off\n layer4 {\n %s }\n}\nhttp://%s {\n metrics /metrics\n}\n",
				admin, block("relay+tcp/"+at, backend+" {\n name "+name+"\n }"), site)
			config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := caddy.Load(config, true); err != nil {
				t.Fatal(err)
			}
			defer caddy.Stop()
			total := "connections_total{" + backendLabels(name, "tcp", backend) + "}"
			shows := func(value float64) func() bool {
				return func() bool {
					got, err := scrapeAt("http://" + site + "/metrics")
					return err == nil && len(got.lacks(map[string]float64{total: value})) == 0
				}
			}
			relaytest.Eventually(t, "the site to show the relay", shows(0))
			if got := ask(t, dial(t, "tcp", at), "x"); got != "b x" {
				t.Fatalf("got %q", got)
			}
			relaytest.Eventually(t, "the connection to be counted", shows(1))
		})
	}
}
