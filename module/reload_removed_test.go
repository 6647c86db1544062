package module_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// echoSource starts a UDP backend that answers each datagram with the address it
// came from. The answer identifies the session.
func echoSource(t *testing.T, addr string) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		buf := make([]byte, 64<<10)
		for {
			_, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo([]byte(from.String()), from)
		}
	}()
	return pc.LocalAddr().String()
}

// mustReload reloads and fails the test if the config is rejected.
func (s *server) mustReload(layer4 string) {
	s.t.Helper()
	if err := s.reload(layer4); err != nil {
		s.t.Fatal(err)
	}
}

// unserved checks that addr serves no new clients.
func unserved(t *testing.T, addr string) {
	t.Helper()
	if conn, err := net.Dial("tcp", addr); err == nil {
		conn.Close()
		t.Errorf("a new TCP client of %s was accepted", addr)
	}
	conn := dial(t, "udp", addr)
	_, _ = conn.Write([]byte("hello?"))
	_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 100)); err == nil {
		t.Errorf("a new UDP client of %s got %d bytes", addr, n)
	}
}

// reset checks that conn was reset.
func reset(t *testing.T, conn net.Conn) {
	t.Helper()
	n, err := conn.Read(make([]byte, 100))
	if err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("read %d bytes, %v, want a reset", n, err)
	}
}

// A listener that leaves the config and returns keeps its clients.
func TestListenerIsRemovedAndReturns(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	echoSource(t, backend)
	at, other := freeAddr(t), freeAddr(t)
	for name, without := range map[string]string{
		"the service stays":      bothAt(other, backend+" {\n name stays\n }"),
		"the service is removed": bothAt(other, backend+" {\n name other\n }"),
		"everything is removed":  "",
	} {
		t.Run(name, func(t *testing.T) {
			with := bothAt(at, backend+" {\n name stays\n }")
			s := start(t, with)
			tcp, udp := dial(t, "tcp", at), dial(t, "udp", at)
			source := ask(t, udp, "who am I?")
			still := func(when string) {
				t.Helper()
				if got := ask(t, tcp, "still"); got != "b still" {
					t.Errorf("%s: the relay got %q", when, got)
				}
				if got := ask(t, udp, "who am I?"); got != source {
					t.Errorf("%s: the session came from %s and now from %s", when, source, got)
				}
			}
			still("before")
			for range 3 {
				s.mustReload(without)
				still("without the listener")
				unserved(t, at)
				still("without the listener")
				s.mustReload(with)
				still("with the listener again")
				if got := ask(t, dial(t, "tcp", at), "new"); got != "b new" {
					t.Errorf("a new TCP client got %q", got)
				}
				if got := ask(t, dial(t, "udp", at), "new"); got == source || got == "" {
					t.Errorf("a new UDP client got %q", got)
				}
			}
		})
	}
}

func TestGracePeriod(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	echoSource(t, backend)
	at, other := freeAddr(t), freeAddr(t)
	ln := listenTCP(t)
	with := func(grace string) string {
		return bothAt(at, fmt.Sprintf("%s %s {\n name leaves\n grace_period %s\n }", ln.Addr(), backend, grace))
	}
	without := bothAt(other, backend+" {\n name other\n }")

	t.Run("expires", func(t *testing.T) {
		s := start(t, with("300ms"))
		tcp, udp := dial(t, "tcp", at), dial(t, "udp", at)
		answering := accept(t, ln)
		_, _ = udp.Write([]byte("a session")) // the first backend refuses UDP, the second one serves
		if got := ask(t, udp, "again"); got == "" {
			t.Error("no session")
		}
		began := time.Now()
		s.mustReload(without)
		reset(t, tcp)
		reset(t, answering)
		if took := time.Since(began); took < 300*time.Millisecond || took > relaytest.Limit/2 {
			t.Errorf("cut after %v, want 300ms", took)
		}
		relaytest.Eventually(t, "both relays to end", func() bool { return reasons(s)["reload"] == 2 })
		unserved(t, at)
	})
	t.Run("the service returns within it", func(t *testing.T) {
		s := start(t, with("2s"))
		tcp, udp := dial(t, "tcp", at), dial(t, "udp", at)
		answering := accept(t, ln)
		s.mustReload(without)
		s.mustReload(with("2s"))
		time.Sleep(2500 * time.Millisecond) // the test is about the passing of time
		if _, err := tcp.Write([]byte("still")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 5)
		if _, err := answering.Read(buf); err != nil || string(buf) != "still" {
			t.Errorf("got %q, %v", buf, err)
		}
		_ = udp
		if got := reasons(s)["reload"]; got != 0 {
			t.Errorf("%d relays were cut", got)
		}
	})
	t.Run("none", func(t *testing.T) {
		s := start(t, with("0s"))
		tcp := dial(t, "tcp", at)
		answering := accept(t, ln)
		s.mustReload(without)
		_ = tcp.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		if _, err := tcp.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "timeout") {
			t.Errorf("the relay saw %v", err)
		}
		if _, err := answering.Write([]byte("on")); err != nil {
			t.Fatal(err)
		}
		_ = tcp.SetReadDeadline(time.Now().Add(relaytest.Limit))
		if n, err := tcp.Read(make([]byte, 10)); n != 2 {
			t.Errorf("got %d bytes, %v", n, err)
		}
	})
}

// reasons counts the reasons in the lines about the ends of relays.
func reasons(s *server) map[string]int {
	counts := make(map[string]int)
	for _, line := range s.lines("relay ended") {
		counts[fmt.Sprint(line["reason"])]++
	}
	return counts
}

// A backend keeps its state over a reload by its address, not by its position.
func TestStateCarriesOverByAddress(t *testing.T) {
	a, _ := echoTCP(t, "a")
	b, stopB := echoTCP(t, "b")
	dead, at := freeAddr(t), freeAddr(t)
	config := func(backends ...string) string {
		return block("relay+tcp/"+at, strings.Join(backends, " ")+" {\n name carried\n }")
	}
	s := start(t, config(dead, a))
	expect := func(want string, strikes int) {
		t.Helper()
		if got := ask(t, dial(t, "tcp", at), "x"); got != want+" x" {
			t.Errorf("got %q, want %s's answer", got, want)
		}
		n := len(s.lines("backend failed, first strike"))
		if m := len(s.lines("backend failed, second strike")); n != strikes || m != strikes {
			t.Errorf("%d first and %d second strikes, want %d", n, m, strikes)
		}
	}
	expect("a", 1)
	s.mustReload(config(a, dead, b)) // between a and b
	expect("a", 1)
	s.mustReload(config(dead, b, a)) // first again, and still down
	expect("b", 1)
	stopB()
	expect("a", 2) // b fails; the dead one is already down, so it gets no strike
	s.mustReload(config(b, dead, a))
	expect("a", 2)
	s.mustReload(config(b, a)) // its state is dropped
	expect("a", 2)
	s.mustReload(config(dead, b, a)) // it returns as a new backend
	_ = ask(t, dial(t, "tcp", at), "x")
}
