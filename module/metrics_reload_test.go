package module_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// served waits until the metrics show that many connections of a service to a
// backend, in total and active.
func (s *server) served(service, backend string, total, active float64) {
	s.t.Helper()
	living := backendLabels(service, "tcp", backend)
	s.shows(map[string]float64{
		"connections_total{" + living + "}":              total,
		"connect_duration_seconds_count{" + living + "}": total,
		"connections_active{" + living + "}":             active,
		bytesOf(service, backend, "up"):                  total,
		bytesOf(service, backend, "down"):                total * float64(len("b x")),
	})
}

// All counters continue over a reload, also those of clients from before.
func TestMetricsOverReloads(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	dead, at, name := freeAddr(t), freeAddr(t), newName("reloaded")
	config := func(idle int) string {
		return block("TCP/"+at, fmt.Sprintf("%s %s {\n name %s\n idle_timeout %dm\n }", dead, backend, name, idle))
	}
	s := start(t, config(1))
	for i := range 4 {
		if got := ask(t, dial(t, "tcp", at), "x"); got != "b x" {
			t.Fatalf("got %q", got)
		}
		s.mustReload(config(i + 2))
		s.served(name, backend, float64(i+1), float64(i+1))
		s.shows(map[string]float64{
			failuresOf(name, dead, "client"):                            2,
			"demotions_total{" + backendLabels(name, "tcp", dead) + "}": 1,
			"backend_up{" + backendLabels(name, "tcp", dead) + "}":      0,
		})
	}
}

// After a rejected reload, the metrics are those of the running config, no matter
// which part of the config failed.
func TestMetricsOverRejectedReloads(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	at, name, never := freeAddr(t), newName("runs-on"), newName("never")
	s := start(t, block("TCP/"+at, backend+" {\n name "+name+"\n }"))
	taken := listenTCP(t)
	admin := fmt.Sprintf(`"admin":{"listen":%q,"config":{"persist":false}}`, s.admin)
	clients := 0.0
	for why, reject := range map[string]func() error{
		"a port taken": func() error {
			return s.reload(block("TCP/"+at, freeAddr(t)+" {\n name "+name+"\n }") + block("relay+tcp/"+taken.Addr().String(), backend+" {\n name "+never+"\n }"))
		},
		"a bad relay": func() error {
			return s.reload(block("TCP/"+at, backend+" {\n name "+name+"\n connect_timeout 0s\n }"))
		},
		"no relay, and another app that is bad": func() error {
			return s.post("/load", "application/json", []byte(`{`+admin+`,"apps":{"http":{"servers":{"s":{"listen":["`+at+`-1"]}}}}}`))
		},
		"an app that is not known": func() error {
			return s.post("/load", "application/json", []byte(`{`+admin+`,"apps":{"nonsense":{}}}`))
		},
	} {
		for range 3 { // Caddy starts apps in random order
			if err := reject(); err == nil {
				t.Fatalf("%s: accepted", why)
			}
			if got := ask(t, dial(t, "tcp", at), "x"); got != "b x" {
				t.Fatalf("%s: got %q", why, got)
			}
			clients++
			s.served(name, backend, clients, clients)
			if shown := s.scrape().of("service", never); len(shown) > 0 {
				t.Errorf("%s: a service of a rejected config: %v", why, shown)
			}
		}
	}
}

// A backend that is removed and returns continues its totals.
func TestMetricsOfABackendThatReturns(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	other, _ := echoTCP(t, "o")
	dead, at, name := freeAddr(t), freeAddr(t), newName("changes")
	with := block("TCP/"+at, dead+" "+backend+" {\n name "+name+"\n }")
	without := block("TCP/"+at, other+" {\n name "+name+"\n }")
	s := start(t, with)
	living, gone := backendLabels(name, "tcp", backend), backendLabels(name, "tcp", dead)
	for round := 1.0; round <= 3; round++ {
		conn := dial(t, "tcp", at)
		if got := ask(t, conn, "x"); got != "b x" {
			t.Fatalf("got %q", got)
		}
		s.mustReload(without)       // no scrape in between
		s.shows(map[string]float64{ // exported while it has relays
			"connections_total{" + living + "}":  round,
			"connections_active{" + living + "}": 1,
		})
		now := s.scrape()
		for _, state := range []string{"backend_up{" + living + "}", failuresOf(name, dead, "client"), "connections_total{" + gone + "}"} {
			if _, ok := now[metricPrefix+state]; ok {
				t.Errorf("%s is shown of a backend that is gone", state)
			}
		}
		conn.Close()
		relaytest.Eventually(t, "the backend to be forgotten", func() bool { return len(s.scrape().of("backend", backend)) == 0 })
		s.mustReload(with)
		s.shows(map[string]float64{failuresOf(name, dead, "client"): 2 * round, "demotions_total{" + gone + "}": round, "backend_up{" + gone + "}": 1})
		s.served(name, backend, round, 0)
	}
}

// A removed service is exported until its last relay has ended. If it returns, it
// continues its totals.
func TestMetricsOfARemovedService(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	at, name := freeAddr(t), newName("removed")
	with := block("TCP/"+at, freeAddr(t)+" "+backend+" {\n name "+name+"\n }")
	s := start(t, with)
	conn := dial(t, "tcp", at)
	if got := ask(t, conn, "x"); got != "b x" {
		t.Fatalf("got %q", got)
	}
	s.mustReload("")
	s.served(name, backend, 1, 1)
	for _, name := range s.scrape().of("service", name) {
		if strings.Contains(name, "backend_up") || strings.Contains(name, "backend_position") {
			t.Errorf("no config has the service, and yet: %s", name)
		}
	}
	conn.Close()
	relaytest.Eventually(t, "the service to go", func() bool { return len(s.scrape().of("service", name)) == 0 })
	s.mustReload(with)
	s.served(name, backend, 1, 0)

	// Removed without active relays.
	s.mustReload("")
	if shown := s.scrape().of("service", name); len(shown) > 0 {
		t.Errorf("still there: %v", shown)
	}
	s.mustReload(with)
	s.served(name, backend, 1, 0)
}

// No scrape during reloads and traffic sees a counter fall.
func TestMetricsNeverFall(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	dead, one, two := freeAddr(t), freeAddr(t), freeAddr(t)
	configs := []string{
		block("TCP/"+one, dead+" "+backend+" {\n name falls\n }"),
		block("TCP/"+one, backend+" {\n name falls\n }") + block("TCP/"+two, dead+" "+backend+" {\n name falls-too\n }"),
		block("TCP/"+one, dead+" "+backend+" {\n idle_timeout 7m\n }") + block("TCP/"+two, dead+" "+backend+" {\n idle_timeout 8m\n }"),
		"",
	}
	s := start(t, configs[0])
	done := make(chan struct{})
	var scraping sync.WaitGroup
	for range 2 {
		scraping.Go(func() { // returns when done is closed
			seen := make(peaks)
			for {
				now, err := s.tryScrape()
				if err != nil {
					t.Error(err)
				}
				for _, fallen := range seen.fallen(now) {
					t.Error(fallen)
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for i := range 24 {
		s.mustReload(configs[i%len(configs)])
		if configs[i%len(configs)] != "" {
			if got := ask(t, dial(t, "tcp", one), "x"); got != "b x" {
				t.Errorf("got %q", got)
			}
		}
	}
	close(done)
	scraping.Wait()
}
