package module_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module"
	"github.com/async-relay/caddy-relay/upstream"
)

// clientCounts counts what clients did, from their own view.
type clientCounts struct{ connections, datagrams, up, down atomic.Uint64 }

// talk runs n clients one after the other. Each asks some questions.
func (l *clientCounts) talk(t *testing.T, network, at string, n, questions int) {
	t.Helper()
	for i := range n {
		conn := dial(t, network, at)
		l.connections.Add(1)
		for j := range questions {
			text := strings.Repeat("x", 1+i*2+j*3)
			answer := ask(t, conn, text)
			if answer != "b "+text {
				t.Errorf("asked with %d bytes, got %d", len(text), len(answer))
			}
			l.datagrams.Add(1)
			l.up.Add(uint64(len(text)))
			l.down.Add(uint64(len(answer)))
		}
		if network == "tcp" {
			conn.Close()
		}
	}
}

// timed returns the number of connects in the histogram.
func timed(use handler.Use) (count uint64) {
	for _, n := range use.Connects.Counts {
		count += n
	}
	return count
}

// sum adds up the counters of all backends on a network.
func sum(service string, n upstream.Network) (all handler.Totals, failed, demotions uint64) {
	for _, b := range module.StatsOf(service).Backends {
		u := b.Use[n]
		all.Connections += u.Connections
		all.BytesUp += u.BytesUp
		all.BytesDown += u.BytesDown
		all.DatagramsUp += u.DatagramsUp
		all.DatagramsDown += u.DatagramsDown
		failed += b.Networks[n].Failed
		demotions += b.Networks[n].Demotions
	}
	return all, failed, demotions
}

// logOf adds up the lines of a network in the access log.
func logOf(lines []map[string]any, network string) (all handler.Totals, failed, refused uint64) {
	for _, line := range lines {
		if line["network"] != network {
			continue
		}
		all.BytesUp += uint64(line["bytes_up"].(float64))
		all.BytesDown += uint64(line["bytes_down"].(float64))
		if network == "udp" {
			all.DatagramsUp += uint64(line["datagrams_up"].(float64))
			all.DatagramsDown += uint64(line["datagrams_down"].(float64))
		}
		if line["reason"] == "refused_no_backend" || line["reason"] == "refused_limit" {
			refused++
		}
		for _, a := range line["attempts"].([]any) {
			switch a.(map[string]any)["error"] {
			case nil:
				all.Connections++
			case "addresses unchanged": // no backend was tried
			default:
				failed++
			}
		}
	}
	return all, failed, refused
}

// The counters, the access log and the events agree with each other and with what
// the clients did: on both networks of one port, over failures and a reload.
func TestCountsReconcile(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		resetReceived(t, nil)
		a, b, at, r := newMortal(t), newMortal(t), freeAddr(t), record(t, "")
		service := serviceAt(at)
		config := func(more string) string {
			return fmt.Sprintf("TCP/%s UDP/%s {\n route {\n relay %s %s {\n name %s\n access_log all\n idle_timeout 2s\n %s\n %s\n }\n }\n }\n", at, at, a.addr, b.addr, service, r.hook, more)
		}
		s := startWith(t, subscribed, config(""))
		var tcp, udp clientCounts
		tcp.talk(t, "tcp", at, 20, 5)
		udp.talk(t, "udp", at, 20, 5)
		// A relay moves bytes before it is counted.
		relaytest.Eventually(t, "20 connections to the first backend, all of them timed", func() bool {
			use := useOf(service, a.addr, upstream.TCP)
			return use.Connections == 20 && timed(use) == 20
		})
		relaytest.Eventually(t, "20 sessions of the first backend, active or ended by their timeout", func() bool {
			ended := 0
			for _, line := range s.accesses(0) {
				if line["network"] == "udp" {
					ended++
				}
			}
			use := useOf(service, a.addr, upstream.UDP)
			return use.Connections == 20 && use.Active+ended == 20 && use.DatagramsDown == 100
		})

		a.kill()
		tcp.talk(t, "tcp", at, 10, 3) // the first client has two failures
		// On Caddy's own network, a datagram after the reload could go to the old socket, if
		// the process that runs the hook still had it.
		r.wait(1)
		s.mustReload(config("max_connections 1000"))
		udp.talk(t, "udp", at, 10, 3) // the other backend is first now
		relaytest.Eventually(t, "10 connections to the second backend", func() bool {
			return useOf(service, b.addr, upstream.TCP).Connections == 10
		})

		b.kill()
		const refused = 4
		for range refused {
			turnedAway(t, at) // the first client has three failures, the others two each
		}
		_, _ = dial(t, "udp", at).Write([]byte("x"))
		lines := s.accesses(30 + refused + 30 + 1)
		if len(lines) != 30+refused+30+1 {
			t.Errorf("%d lines in the access log", len(lines))
		}

		counted, failed, demotions := sum(service, upstream.TCP)
		want := handler.Totals{Connections: 30, BytesUp: tcp.up.Load(), BytesDown: tcp.down.Load()}
		if counted != want || failed != 2+3+2*(refused-1) || demotions != 2 {
			t.Errorf("tcp: counted %+v, %d failures, %d demotions, want %+v", counted, failed, demotions, want)
		}
		if fromLog, inLog, refusals := logOf(lines, "tcp"); fromLog != counted || inLog != failed || refusals != refused {
			t.Errorf("tcp: the access log says %+v, %d failures, %d refused", fromLog, inLog, refusals)
		}
		counted, failed, demotions = sum(service, upstream.UDP)
		if counted.BytesDown != udp.down.Load() || counted.DatagramsDown != udp.datagrams.Load() || failed != 4 || demotions != 2 {
			t.Errorf("udp: counted %+v, %d failures, %d demotions, want %d bytes, %d datagrams down", counted, failed, demotions, udp.down.Load(), udp.datagrams.Load())
		}
		fromLog, inLog, refusals := logOf(lines, "udp")
		if fromLog != counted || fromLog.Connections != 30 || inLog != failed || refusals != 1 {
			t.Errorf("udp: the access log says %+v, %d failures, %d refused; counted %+v", fromLog, inLog, refusals, counted)
		}
		if got := counted.DatagramsUp; got != udp.datagrams.Load()+1 { // the datagram of the refused client was sent
			t.Errorf("udp: %d datagrams up, want %d", got, udp.datagrams.Load()+1)
		}

		stats := module.StatsOf(service)
		if n := stats.Refused; n[upstream.TCP][handler.RefusedByBackends] != refused || n[upstream.UDP][handler.RefusedByBackends] != 1 {
			t.Errorf("refused: %v", n)
		}
		s.waitLogged("client refused", refused, 1)
		events := make(map[string]int)
		_, fromSubscriber := receiveEvents(t, 6)
		for _, source := range [][]string{fromSubscriber, r.wait(6)} {
			for _, e := range source {
				events[e]++
			}
		}
		wantEvents := map[string]int{"backend_failed " + portOf(a.addr): 4, "backend_failed " + portOf(b.addr): 4, "all_backends_unavailable": 4}
		if fmt.Sprint(events) != fmt.Sprint(wantEvents) {
			t.Errorf("hook and subscriber received %v, want %v", events, wantEvents)
		}
	})
}
