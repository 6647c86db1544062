package module_test

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// An operator's hold makes new clients wait, also over a reload. The release serves
// them. Status, journal, metrics and commands show it.
func TestAdminHolds(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		a, _ := echoTCP(t, "a")
		at, name := freeAddr(t), unique("held")
		config := func(idle string) string {
			return block("TCP/"+at, fmt.Sprintf("%s {\n name %s\n idle_timeout %s\n }", a, name, idle))
		}
		s := start(t, config("1m"))
		old := dial(t, "tcp", at)
		if got := ask(t, old, "x"); got != "a x" {
			t.Errorf("got %q", got)
		}
		var v struct {
			Held  int
			Until time.Time `json:"held_until"`
		}
		s.must("POST", "services/"+name+"/hold?for=10m", &v)
		if left := time.Until(v.Until); left > 10*time.Minute || left < 9*time.Minute {
			t.Errorf("held for another %s", left)
		}
		s.mustReload(config("2m"))
		if got := ask(t, old, "y"); got != "a y" {
			t.Errorf("a client from before the hold: %q", got)
		}
		held := dial(t, "tcp", at)
		answers := make(chan string, 1)
		go func(conn net.Conn) { answers <- ask(t, conn, "z") }(held)
		relaytest.Eventually(t, "a held client", func() bool {
			s.must("GET", "services/"+name, &v)
			return v.Held == 1
		})
		s.shows(map[string]float64{fmt.Sprintf("connections_held{service=%q}", name): 1})
		if out := s.relay("status", name); !strings.Contains(out, ", 1 held\n") || !strings.Contains(out, name+": new clients wait for ") {
			t.Errorf("status:\n%s", out)
		}
		if out := s.relay("release", name); out != name+": new clients are served\n" {
			t.Errorf("release: %q", out)
		}
		if got := relaytest.Receive(t, "the held client's answer", answers); got != "a z" {
			t.Errorf("got %q", got)
		}
		if got := kinds(s.explain(name)); !slices.Equal(got, []string{"hold", "release"}) {
			t.Errorf("journal: %v", got)
		}
		if out := s.relay("hold", name, "--for", "1s"); !strings.HasPrefix(out, name+": new clients wait for ") {
			t.Errorf("hold: %q", out)
		}
		if got := ask(t, dial(t, "tcp", at), "w"); got != "a w" { // after the hold has ended by itself
			t.Errorf("got %q", got)
		}
		for _, bad := range []string{"0s", "-1s", "2h", "x"} {
			status, problem, _ := s.ask("POST", "services/"+name+"/hold?for="+bad, nil)
			if want := fmt.Sprintf(`query parameter "for" must be a duration such as 30s, at most 1h0m0s, got %q`, bad); status != 400 || problem != want {
				t.Errorf("%s: %d %s", bad, status, problem)
			}
		}
	})
}

// With the option hold, clients of a service without a live backend are served
// when one recovers.
func TestHoldOption(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		backend := freeAddr(t)
		at, name := freeAddr(t), unique("holding")
		s := start(t, block("TCP/"+at, fmt.Sprintf("%s {\n name %s\n hold 10m\n }", backend, name)))
		held := dial(t, "tcp", at)
		answers := make(chan string, 1)
		go func() { answers <- ask(t, held, "x") }()
		var v struct{ Held int }
		relaytest.Eventually(t, "a held client", func() bool {
			s.must("GET", "services/"+name, &v)
			return v.Held == 1
		})
		echoTCPAt(t, "a", backend)
		if got := relaytest.Receive(t, "the held client's answer", answers); got != "a x" {
			t.Errorf("got %q", got)
		}
	})
}

// A drain with a time limit ends the TCP relays of the backend.
func TestAdminDrainsWithALimit(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		a, _ := echoTCP(t, "a")
		b, _ := echoTCP(t, "b")
		at, name := freeAddr(t), unique("limited")
		s := start(t, block("TCP/"+at, fmt.Sprintf("%s %s {\n name %s\n on_down cut\n }", a, b, name)))
		old := dial(t, "tcp", at)
		if got := ask(t, old, "x"); got != "a x" {
			t.Errorf("got %q", got)
		}
		if out := s.relay("drain", name, a, "--cut-after", "50ms"); out != a+": draining, 1 TCP and 0 UDP active\n" {
			t.Errorf("drain: %q", out)
		}
		if n, err := old.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the relay ended with %d bytes and %v", n, err)
		}
		relaytest.Eventually(t, "the entry of the cut", func() bool { return slices.Equal(kinds(s.explain(name)), []string{"drain", "cut"}) })
	})
}
