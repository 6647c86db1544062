package module_test

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// canBind reports whether the addresses are free, on TCP and UDP.
func canBind(addrs ...string) bool {
	for _, addr := range addrs {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return false
		}
		ln.Close()
		pc, err := net.ListenPacket("udp", addr)
		if err != nil {
			return false
		}
		pc.Close()
	}
	return true
}

// bothAt returns a layer4 server on TCP and UDP at addr with one relay.
func bothAt(addr, relay string) string {
	return fmt.Sprintf("relay+tcp/%s relay+udp/%s {\n route {\n relay %s\n }\n }\n", addr, addr, relay)
}

// A rejected config gets no client, leaves no listener, and does not change the
// services of the running config.
func TestRejectedReloadLeavesNothing(t *testing.T) {
	a, _ := echoTCP(t, "a")
	echoUDP(t, "a", a)
	b, _ := echoTCP(t, "b")
	echoUDP(t, "b", b)
	dead, at := freeAddr(t), freeAddr(t)
	good := func(first string) string {
		return bothAt(at, first+" {\n name kept\n idle_timeout 2s\n udp_responses 1\n }")
	}
	s := start(t, good(dead+" "+a))
	if got := ask(t, dial(t, "tcp", at), "x"); got != "a x" { // the dead backend is down now
		t.Fatalf("got %q", got)
	}
	taken := listenTCP(t)

	// All these configs are rejected. A taken port is found when the config
	// starts, at the first or at the second listener, in random order. A bad
	// handler is found before.
	for name, rejected := range map[string]string{
		"a port taken, another service":       bothAt(at, b+" {\n name other\n }") + block("relay+tcp/"+taken.Addr().String(), b),
		"a port taken, the same service":      bothAt(at, b+" {\n name kept\n }") + block("relay+tcp/"+taken.Addr().String(), b),
		"a port taken, the same server":       fmt.Sprintf("relay+tcp/%s relay+udp/%s relay+tcp/%s {\n route {\n relay %s {\n name kept\n }\n }\n }", at, at, taken.Addr(), b),
		"a port taken, order of the same two": bothAt(at, a+" "+dead+" {\n name kept\n }") + block("relay+tcp/"+taken.Addr().String(), b),
		"a bad handler":                       bothAt(at, b+" {\n name kept\n }") + block("relay+tcp/"+freeAddr(t), b+" {\n name v\n connect_timeout 0s\n }"),
	} {
		t.Run(name, func(t *testing.T) {
			for range 5 {
				if err := s.reload(rejected); err == nil {
					t.Fatal("accepted")
				}
				for i := range 8 {
					if got := ask(t, dial(t, "tcp", at), "x"); got != "a x" {
						t.Fatalf("connection %d: got %q, from the rejected config", i, got)
					}
					if got := ask(t, dial(t, "udp", at), "x"); got != "a x" {
						t.Fatalf("session %d: got %q, from the rejected config", i, got)
					}
				}
			}
		})
	}
	// The dead backend is still down: no client tried it again.
	for _, message := range []string{"backend failed, first strike", "backend failed, second strike", "service started"} {
		if got := s.lines(message); len(got) != 1 {
			t.Errorf("%q was logged %d times: %v", message, len(got), got)
		}
	}
	for _, message := range []string{"config reloaded", "service stopped"} {
		if got := s.lines(message); len(got) != 0 {
			t.Errorf("%q was logged for rejected configs: %v", message, got)
		}
	}

	if err := s.reload(good(b + " " + dead + " " + a)); err != nil {
		t.Fatal("a good reload behind the rejected ones: ", err)
	}
	if got := ask(t, dial(t, "tcp", at), "x"); got != "b x" {
		t.Errorf("after the good reload: got %q", got)
	}
	reloads := s.lines("config reloaded")
	if len(reloads) != 1 || fmt.Sprint(reloads[0]["backends_added"]) != fmt.Sprintf("[kept %s]", b) || fmt.Sprint(reloads[0]["backends_moved"]) != "[]" {
		t.Errorf("the accepted reload was logged as %v", reloads)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	relaytest.Eventually(t, "all ports to be free", func() bool { return canBind(at) })
}

// A first config that is rejected leaves nothing either.
func TestRejectedFirstConfig(t *testing.T) {
	b, _ := echoTCP(t, "b")
	at := freeAddr(t)
	s := start(t, "")
	taken := listenTCP(t)
	for range 5 {
		err := s.reload(bothAt(at, b+" {\n name first\n }") + block("relay+tcp/"+taken.Addr().String(), b))
		if err == nil || !strings.Contains(err.Error(), "in use") {
			t.Fatalf("got %v", err)
		}
		relaytest.Eventually(t, "the port to be free", func() bool { return canBind(at) })
	}
	if err := s.reload(bothAt(at, b+" {\n name first\n }")); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, dial(t, "tcp", at), "x"); got != "b x" {
		t.Errorf("got %q", got)
	}
}
