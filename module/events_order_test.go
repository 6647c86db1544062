package module_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module"
	"github.com/async-relay/caddy-relay/upstream"
)

// When many clients hit a backend at once, subscribers still receive its failures
// and recoveries alternately.
func TestEventsOfManyClientsAreInOrder(t *testing.T) {
	resetReceived(t, nil)
	a, b, at := newMortal(t), newMortal(t), freeAddr(t)
	startWith(t, subscribed, block("TCP/"+at, fmt.Sprintf("%s %s {\n name %s\n health_check 100ms\n failback\n }", a.addr, b.addr, serviceAt(at))))
	stop := make(chan struct{})
	var crowd sync.WaitGroup
	for range 8 {
		crowd.Go(func() { askRepeatedly(at, stop) })
	}
	first := func() upstream.NetworkStatus {
		for _, b := range module.StatsOf(serviceAt(at)).Backends {
			if b.Backend.Text == a.addr {
				return b.Networks[upstream.TCP]
			}
		}
		return upstream.NetworkStatus{}
	}
	const outages = 20
	for i := range outages {
		a.kill()
		relaytest.Eventually(t, fmt.Sprintf("outage %d", i), func() bool { return first().State == upstream.Down })
		a.rise()
		relaytest.Eventually(t, fmt.Sprintf("recovery %d", i), func() bool { return first().State == upstream.Up })
	}
	close(stop)
	crowd.Wait()
	_, texts := receiveEvents(t, 2*outages)
	last := make(map[string]string)
	for i, event := range texts {
		what, port, ofBackend := strings.Cut(event, " ")
		if !ofBackend {
			continue
		}
		if last[port] == what || last[port] == "" && what == "backend_recovered" {
			t.Errorf("event %d: %s twice, of %s", i, what, port)
		}
		last[port] = what
	}
}
