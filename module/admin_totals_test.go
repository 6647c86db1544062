package module_test

import (
	"fmt"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// The counts of a removed backend stay in the totals of its service. Requests to
// the admin API take nothing from the metrics.
func TestTotalsOutliveBackends(t *testing.T) {
	dead, at, name := freeAddr(t), freeAddr(t), newName("totals")
	a, _ := echoTCP(t, "a")
	b, _ := echoTCP(t, "b")
	both := block("relay+tcp/"+at, dead+" "+a+" "+b+" {\n name "+name+"\n }")
	s := start(t, both)
	conn := dial(t, "tcp", at)
	ask(t, conn, "1")
	other := dial(t, "tcp", at)
	ask(t, other, "2")
	other.Close()
	s.mustReload(block("relay+tcp/"+at, b+" {\n name "+name+"\n }"))
	ask(t, conn, "3")
	total := func(backends int) {
		t.Helper()
		want := apiTotals{Connections: 2, Failures: 2, Demotions: 1, BytesUp: 3, BytesDown: 9}
		relaytest.Eventually(t, fmt.Sprintf("%d backends with %+v", backends, want), func() bool {
			v := s.service(name)
			return len(v.Backends) == backends && v.Totals == want
		})
	}
	total(2)
	conn.Close()
	relaytest.Eventually(t, "the last relay to end", func() bool { return s.service(name).Active.TCP == 0 })
	total(1)
	total(1)
	s.mustReload(both) // records the counts before the backends change
	total(3)
	s.shows(map[string]float64{bytesOf(name, a, "up"): 3})
}
