package module_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// tellSource is a UDP backend that answers each datagram with the address it
// came from, so that a session shows.
func tellSource(t *testing.T, addr string) string {
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

// mustReload reloads and fails the test if that is refused.
func (s *server) mustReload(layer4 string) {
	s.t.Helper()
	if err := s.reload(layer4); err != nil {
		s.t.Fatal(err)
	}
}

// unserved expects that new clients at addr are refused.
func unserved(t *testing.T, addr string) {
	t.Helper()
	if conn, err := net.Dial("tcp", addr); err == nil {
		conn.Close()
		t.Errorf("a new TCP client of %s was let in", addr)
	}
	conn := dial(t, "udp", addr)
	_, _ = conn.Write([]byte("anybody?"))
	_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 100)); err == nil {
		t.Errorf("a new UDP client of %s got %d bytes", addr, n)
	}
}

// reset expects that conn has been reset.
func reset(t *testing.T, conn net.Conn) {
	t.Helper()
	n, err := conn.Read(make([]byte, 100))
	if err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("read %d bytes, %v, want a reset", n, err)
	}
}

// A listener that leaves the config and comes back: who is there stays.
func TestListenerLeavesAndComesBack(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	tellSource(t, backend)
	at, other := freeAddr(t), freeAddr(t)
	for name, without := range map[string]string{
		"the service stays": bothAt(other, backend+" {\n name stays\n }"),
		"the service goes":  bothAt(other, backend+" {\n name other\n }"),
		"all goes":          "",
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
				still("with it again")
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
	tellSource(t, backend)
	at, other := freeAddr(t), freeAddr(t)
	ln := listenTCP(t)
	with := func(grace string) string {
		return bothAt(at, fmt.Sprintf("%s %s {\n name leaves\n grace_period %s\n }", ln.Addr(), backend, grace))
	}
	without := bothAt(other, backend+" {\n name other\n }")

	t.Run("is over", func(t *testing.T) {
		s := start(t, with("300ms"))
		tcp, udp := dial(t, "tcp", at), dial(t, "udp", at)
		answering := accept(t, ln)
		_, _ = udp.Write([]byte("a session")) // the backend does not speak UDP: refused, then the next
		if got := ask(t, udp, "again"); got == "" {
			t.Error("no session")
		}
		s.mustReload(without)
		began := time.Now()
		reset(t, tcp)
		reset(t, answering)
		if took := time.Since(began); took < 200*time.Millisecond || took > patience/2 {
			t.Errorf("cut after %v, want 300ms", took)
		}
		eventually(t, "both ends to be told", func() bool { return reasons(s)["reload"] == 2 })
		unserved(t, at)
	})
	t.Run("comes back within", func(t *testing.T) {
		s := start(t, with("2s"))
		tcp, udp := dial(t, "tcp", at), dial(t, "udp", at)
		answering := accept(t, ln)
		s.mustReload(without)
		s.mustReload(with("2s"))
		time.Sleep(2500 * time.Millisecond) // the passing of time is what is tested
		if _, err := tcp.Write([]byte("still")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 5)
		if _, err := answering.Read(buf); err != nil || string(buf) != "still" {
			t.Errorf("got %q, %v", buf, err)
		}
		_ = udp
		if got := reasons(s)["reload"]; got != 0 {
			t.Errorf("%d were cut", got)
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
		_ = tcp.SetReadDeadline(time.Now().Add(patience))
		if n, err := tcp.Read(make([]byte, 10)); n != 2 {
			t.Errorf("got %d bytes, %v", n, err)
		}
	})
}

// reasons counts why relays ended.
func reasons(s *server) map[string]int {
	counts := make(map[string]int)
	for _, line := range s.lines("relay ended") {
		counts[fmt.Sprint(line["reason"])]++
	}
	return counts
}

// What is known of a backend goes by its address, not by its place.
func TestStateCarriesOverByName(t *testing.T) {
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
	s.mustReload(config(a, dead, b)) // behind a, ahead of b
	expect("a", 1)
	s.mustReload(config(dead, b, a)) // first again: it is down all the same
	expect("b", 1)
	stopB()
	expect("a", 2) // b falls; the dead one, at the end before it, is asked without a strike if at all
	s.mustReload(config(b, dead, a))
	expect("a", 2)
	s.mustReload(config(b, a)) // it leaves, and is forgotten
	expect("a", 2)
	s.mustReload(config(dead, b, a)) // it comes back as a new one
	_ = ask(t, dial(t, "tcp", at), "x")
}
