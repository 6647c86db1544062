package module_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

// canBind says whether the addresses are free again, for TCP and UDP.
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

// bothAt is a server on TCP and UDP at addr that relays on the given settings.
func bothAt(addr, relay string) string {
	return fmt.Sprintf("relay+tcp/%s relay+udp/%s {\n route {\n relay %s\n }\n }\n", addr, addr, relay)
}

// A rejected config gets no client, leaves no listener, and changes nothing of
// a service that the running one has too.
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
	if got := ask(t, dial(t, "tcp", at), "x"); got != "a x" { // and the dead one is down
		t.Fatalf("got %q", got)
	}
	taken := listenTCP(t)

	// All of it is rejected: by a port that is taken, which shows when it
	// starts, at the first listener or the second, as a map has it; by a
	// handler that is wrong, which shows before.
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
	// The dead backend is down as before: nobody has asked it again.
	for _, message := range []string{"backend failed, first strike", "backend failed, second strike", "service started"} {
		if got := s.lines(message); len(got) != 1 {
			t.Errorf("%q was told %d times: %v", message, len(got), got)
		}
	}
	for _, message := range []string{"config reloaded", "service stopped"} {
		if got := s.lines(message); len(got) != 0 {
			t.Errorf("%q was told of rejected configs: %v", message, got)
		}
	}

	if err := s.reload(good(b + " " + dead + " " + a)); err != nil {
		t.Fatal("a good reload behind the rejected ones: ", err)
	}
	if got := ask(t, dial(t, "tcp", at), "x"); got != "b x" {
		t.Errorf("after the good reload: got %q", got)
	}
	told := s.lines("config reloaded")
	if len(told) != 1 || fmt.Sprint(told[0]["backends_added"]) != fmt.Sprintf("[kept %s]", b) || fmt.Sprint(told[0]["backends_moved"]) != "[]" {
		t.Errorf("the good reload was told so: %v", told)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all ports to be free", func() bool { return canBind(at) })
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
		eventually(t, "the port to be free", func() bool { return canBind(at) })
	}
	if err := s.reload(bothAt(at, b+" {\n name first\n }")); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, dial(t, "tcp", at), "x"); got != "b x" {
		t.Errorf("got %q", got)
	}
}
