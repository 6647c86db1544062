package module_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module"
	"github.com/async-relay/caddy-relay/upstream"
)

// quickly is a health check for tests.
const quickly = "health_check 300ms\n"

// linesBy counts the lines of a message that are about health checks and about
// clients.
func (s *server) linesBy(message string) (probes, clients int) {
	for _, line := range s.lines(message) {
		if line["client"] == "health check" {
			probes++
		} else {
			clients++
		}
	}
	return probes, clients
}

// probeEntries returns the journal's entries about health checks, each as its kind
// and port.
func probeEntries(service string) (list []string) {
	for _, e := range module.ServiceOf(service).Journal.Entries() {
		if e.By == "health check" {
			list = append(list, string(e.Kind)+" "+portOf(e.Backend))
		}
	}
	return list
}

func TestValidateProbesNothing(t *testing.T) {
	ln := listenTCP(t)
	config := fmt.Sprintf(`{"admin":{"disabled":true},"apps":{"layer4":{"servers":{"s":{"listen":[%q],"routes":[{"handle":[{"handler":"relay","name":"v","backends":[%q],"health_check":{"interval":"10ms"}}]}]}}}}}`, freeAddr(t), ln.Addr())
	for range 20 {
		var c *caddy.Config
		if err := json.Unmarshal([]byte(config), &c); err != nil {
			t.Fatal(err)
		}
		if err := caddy.Validate(c); err != nil {
			t.Fatal(err)
		}
	}
	_ = ln.SetDeadline(time.Now().Add(100 * time.Millisecond))
	if conn, err := ln.Accept(); err == nil {
		t.Errorf("a backend was probed, from %v", conn.RemoteAddr())
	}
}

// Probes alone find that the primary is dead, and that it works again. Clients
// being served notice nothing.
func TestProbesMoveThePrimary(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		a, at := newMortal(t), freeAddr(t)
		b, _ := echoTCP(t, "second")
		s := start(t, block("TCP/"+at, fmt.Sprintf("%s %s {\n name %s\n %s failback\n }", a.addr, b, serviceAt(at), quickly)))
		order := func() []string { return module.ServiceOf(serviceAt(at)).Pool.Order() }
		a.kill()
		relaytest.Eventually(t, "the demotion", func() bool { return order()[0] == b })
		relaytest.Eventually(t, "the lines", func() bool { n, _ := s.linesBy("backend failed, second strike"); return n == 1 })
		if probes, clients := s.linesBy("backend failed, first strike"); probes != 1 || clients != 0 {
			t.Errorf("first strikes of %d probes, %d clients", probes, clients)
		}
		old := dial(t, "tcp", at)
		if got := ask(t, old, "x"); got != "second x" {
			t.Fatalf("got %q", got)
		}
		a.rise()
		relaytest.Eventually(t, "the failback", func() bool { return order()[0] == a.addr })
		if got := ask(t, dial(t, "tcp", at), "x"); got != "b x" {
			t.Errorf("a new client got %q", got)
		}
		if got := ask(t, old, "y"); got != "second y" {
			t.Errorf("the client that was there got %q", got)
		}
		if got, want := probeEntries(serviceAt(at))[:3], []string{"strike " + portOf(a.addr), "demotion " + portOf(a.addr), "recovery " + portOf(a.addr)}; !slices.Equal(got, want) {
			t.Errorf("the journal has %v, want %v", got, want)
		}
		relaytest.Eventually(t, "both orders to be logged", func() bool { return len(s.lines("backend order changed")) == 2 })
		if probes, clients := s.linesBy("backend recovered"); probes != 1 || clients != 0 {
			t.Errorf("recoveries of %d probes, %d clients", probes, clients)
		}
	})
}

func TestProbeEndsCooldown(t *testing.T) {
	a, b, at := newMortal(t), newMortal(t), freeAddr(t)
	config := func(probes string) string {
		return block("TCP/"+at, fmt.Sprintf("%s %s {\n name cooling\n cooldown 1h\n %s }", a.addr, b.addr, probes))
	}
	s := start(t, config(""))
	state := func() upstream.State { return module.StatsOf("cooling").Backends[1].Networks[upstream.TCP].State }
	a.kill()
	ask(t, dial(t, "tcp", at), "x")
	if got := state(); got != upstream.Cooling {
		t.Fatalf("behind the demotion: %s", got)
	}
	a.rise()
	s.mustReload(config(quickly))
	relaytest.Eventually(t, "the recovery", func() bool { return state() == upstream.Up })
	relaytest.Eventually(t, "the recovery to be logged", func() bool { n, _ := s.linesBy("backend recovered"); return n == 1 })
}

// A UDP backend passes a probe only if it answers.
func TestProbesOfUDP(t *testing.T) {
	var ill atomic.Bool
	pc, err := net.ListenPacket("udp", freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			answer := "what?"
			if string(buf[:n]) == "ping\r\n" && !ill.Load() {
				answer = "so: pong"
			}
			_, _ = pc.WriteTo([]byte(answer), from)
		}
	}()
	backend := pc.LocalAddr().String()
	other, _ := echoUDP(t, "other ping pong", freeAddr(t))
	at := freeAddr(t)
	s := start(t, block("UDP/"+at, fmt.Sprintf("%s %s {\n name probed\n failback\n health_check 1s {\n network udp\n send ping\\r\\n\n expect pong\n }\n }", backend, other)))
	relaytest.Eventually(t, "probes that are answered", func() bool {
		return module.StatsOf("probed").Backends[0].Networks[upstream.UDP].Succeeded > 2
	})
	if n := len(s.lines("backend failed, first strike")); n != 0 {
		t.Fatalf("%d strikes of one that is well", n)
	}
	ill.Store(true)
	order := func() []string { return module.ServiceOf("probed").Pool.Order() }
	relaytest.Eventually(t, "the demotion", func() bool { return order()[0] == other })
	if got := ask(t, dial(t, "udp", at), "x"); got != "other ping pong x" {
		t.Errorf("got %q", got)
	}
	ill.Store(false)
	relaytest.Eventually(t, "the failback", func() bool { return order()[0] == backend })
	for _, message := range []string{"backend failed, first strike", "backend failed, second strike", "backend recovered"} {
		lines := s.lines(message)
		if len(lines) != 1 || lines[0]["network"] != "udp" || lines[0]["client"] != "health check" || lines[0]["backend"] != backend {
			t.Errorf("%s: %v", message, lines)
		}
	}
}

// A failback changes the order, so it is recorded in the journal.
func TestFailbackInTheJournal(t *testing.T) {
	a, b, at := newMortal(t), newMortal(t), freeAddr(t)
	start(t, block("TCP/"+at, fmt.Sprintf("%s %s {\n name failback\n %s failback\n }", a.addr, b.addr, quickly)))
	order := func() []string { return module.ServiceOf("failback").Pool.Order() }
	a.kill()
	relaytest.Eventually(t, "the demotion", func() bool { return order()[0] == b.addr })
	a.rise()
	relaytest.Eventually(t, "the failback", func() bool { return order()[0] == a.addr })
	entries := module.ServiceOf("failback").Journal.Entries()
	if last := entries[len(entries)-1]; last.Kind != handler.KindFailback || last.Backend != a.addr {
		t.Errorf("the last entry: %v", last)
	}
}

// With failback move, a failback brings the clients of the other backend back.
func TestFailbackMove(t *testing.T) {
	a, b, at := newMortal(t), newMortal(t), freeAddr(t)
	start(t, block("TCP/"+at, fmt.Sprintf("%s %s {\n name move\n %s failback move\n }", a.addr, b.addr, quickly)))
	order := func() []string { return module.ServiceOf("move").Pool.Order() }
	a.kill()
	relaytest.Eventually(t, "the demotion", func() bool { return order()[0] == b.addr })
	client := dial(t, "tcp", at)
	relaytest.Eventually(t, "a relay", func() bool { tcp, _ := module.ServiceOf("move").Active(); return tcp == 1 })
	a.rise()
	_ = client.SetReadDeadline(time.Now().Add(relaytest.Limit))
	if _, err := client.Read(make([]byte, 100)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client of the other backend ended with %v", err)
	}
	if first := order()[0]; first != a.addr {
		t.Errorf("%s is first", first)
	}
}
