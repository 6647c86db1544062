package module_test

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

const accessLogger = "layer4.handlers.relay.access"

// accesses waits for n lines in the access log and returns all of them.
func (s *server) accesses(n int) (lines []map[string]any) {
	s.t.Helper()
	relaytest.Eventually(s.t, fmt.Sprintf("%d lines in the access log", n), func() bool {
		lines = lines[:0]
		for _, line := range logged(s.t, s.log) {
			if line["logger"] == accessLogger {
				lines = append(lines, line)
			}
		}
		return len(lines) >= n
	})
	return lines
}

// fieldNames returns the names of the fields that the relay adds to a line.
func fieldNames(line map[string]any) (names []string) {
	for name := range line {
		if !slices.Contains([]string{"level", "ts", "logger", "msg"}, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// wantAttempts checks that the line has two failed attempts on dead and one on
// good.
func wantAttempts(t *testing.T, line map[string]any, dead, good string) {
	t.Helper()
	attempts, _ := line["attempts"].([]any)
	if len(attempts) != 3 {
		t.Fatalf("attempts: %v", line["attempts"])
	}
	for i, want := range []string{dead, dead, good} {
		a := attempts[i].(map[string]any)
		ms, ok := a["ms"].(float64)
		failed := a["error"] != nil && strings.Contains(a["error"].(string), "refused")
		if a["backend"] != want || a["address"] != want || failed != (want == dead) || !ok || ms < 0 {
			t.Errorf("attempt %d: %v", i, a)
		}
	}
}

func TestAccessLogOfTCP(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		good, dead, at := newMortal(t).addr, freeAddr(t), freeAddr(t)
		s := start(t, block("TCP/"+at, fmt.Sprintf("%s %s {\n name %s\n access_log tcp\n }", dead, good, serviceAt(at))))
		conn := dial(t, "tcp", at)
		ask(t, conn, "hello")
		ask(t, conn, "you")
		if got := len(s.accesses(0)); got != 0 {
			t.Fatalf("%d lines while the relay is active", got)
		}
		conn.Close()
		lines := s.accesses(1)
		if len(lines) != 1 {
			t.Fatalf("%d lines for one relay", len(lines))
		}
		line := lines[0]
		if want := "[address attempts backend bytes_down bytes_up client dial_ms duration local network reason service]"; fmt.Sprint(fieldNames(line)) != want {
			t.Errorf("fields %v, want %s", fieldNames(line), want)
		}
		for field, want := range map[string]any{
			"level": "info", "service": serviceAt(at), "network": "tcp", "client": conn.LocalAddr().String(), "local": at,
			"backend": good, "address": good, "bytes_up": 8.0, "bytes_down": 12.0, "reason": "client_closed",
		} {
			if line[field] != want {
				t.Errorf("%s is %v, want %v", field, line[field], want)
			}
		}
		wantAttempts(t, line, dead, good)
		if ms, ok := line["dial_ms"].(float64); !ok || ms < 0 {
			t.Errorf("dial_ms is %v", line["dial_ms"])
		}
		if d, ok := line["duration"].(float64); !ok || d <= 0 || d > relaytest.Limit.Seconds() {
			t.Errorf("duration is %v", line["duration"])
		}
	})
}

func TestAccessLogOfUDP(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		good, dead, at := newMortal(t).addr, freeAddr(t), freeAddr(t)
		s := start(t, block("UDP/"+at, fmt.Sprintf("%s %s {\n name %s\n access_log all\n idle_timeout 1500ms\n }", dead, good, serviceAt(at))))
		conn := dial(t, "udp", at)
		ask(t, conn, "hello")
		ask(t, conn, "you")
		line := s.accesses(1)[0]
		if want := "[address attempts backend bytes_down bytes_up client datagrams_down datagrams_up dial_ms duration local network reason service]"; fmt.Sprint(fieldNames(line)) != want {
			t.Errorf("fields %v, want %s", fieldNames(line), want)
		}
		for field, want := range map[string]any{
			"level": "info", "service": serviceAt(at), "network": "udp", "client": conn.LocalAddr().String(), "local": at,
			"backend": good, "address": good, "bytes_up": 8.0, "bytes_down": 12.0, "datagrams_up": 2.0, "datagrams_down": 2.0, "reason": "idle_timeout",
		} {
			if line[field] != want {
				t.Errorf("%s is %v, want %v", field, line[field], want)
			}
		}
		wantAttempts(t, line, dead, good)
	})
}

// The setting decides which relays have a line.
func TestAccessLogSettings(t *testing.T) {
	for setting, want := range map[string][]string{"": nil, "access_log off": nil, "access_log tcp": {"tcp"}, "access_log all": {"tcp", "udp"}} {
		t.Run(setting, func(t *testing.T) {
			backend, at := newMortal(t).addr, freeAddr(t)
			s := start(t, bothAt(at, fmt.Sprintf("%s {\n udp_responses 1\n %s\n }", backend, setting)))
			conn := dial(t, "tcp", at)
			ask(t, conn, "x")
			conn.Close()
			ask(t, dial(t, "udp", at), "x") // which ends the session
			relaytest.Eventually(t, "both ends", func() bool { return len(s.lines("relay ended")) == 2 })
			var got []string
			for _, line := range s.accesses(len(want)) {
				got = append(got, line["network"].(string))
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("lines of %v, want %v", got, want)
			}
		})
	}
}

// The config of Caddy's logs can send the access log to its own file.
func TestAccessLogInItsOwnFile(t *testing.T) {
	access, rest := filepath.Join(t.TempDir(), "access"), filepath.Join(t.TempDir(), "rest")
	log := func(name, path, selection string) string {
		return fmt.Sprintf("log %s {\n output file %q {\n roll_disabled\n }\n format json\n level INFO\n %s\n }\n", name, path, selection)
	}
	good, dead, at := newMortal(t).addr, freeAddr(t), freeAddr(t)
	s := startWith(t, log("access", access, "include "+accessLogger)+log("rest", rest, "include layer4.handlers.relay\n exclude "+accessLogger),
		block("TCP/"+at, dead+" "+good+" {\n access_log tcp\n }"))
	const clients = 20
	for range clients {
		conn := dial(t, "tcp", at)
		ask(t, conn, "x")
		conn.Close()
	}
	s.accesses(clients)
	own, others := logged(t, access), logged(t, rest)
	if len(own) != clients || len(others) < 3 {
		t.Errorf("%d lines for %d relays, and %d others", len(own), clients, len(others))
	}
	for i, line := range append(own, others...) {
		if isAccess := line["logger"] == accessLogger; isAccess != (i < len(own)) {
			t.Errorf("in the wrong file: %v", line)
		}
	}
}

// conns holds both ends of a relay.
type conns struct {
	client  net.Conn     // may be TLS
	socket  *net.TCPConn // of client
	backend *net.TCPConn
}

// accessEnds ends a relay in the way that has the reason in the access log.
var accessEnds = map[string]func(c conns){
	"client_closed":  func(c conns) { c.client.Close(); readToEnd(c.backend); c.backend.Close() },
	"backend_closed": func(c conns) { c.backend.Close(); readToEnd(c.client); c.client.Close() },
	"client_reset":   func(c conns) { _ = c.socket.SetLinger(0); c.socket.Close() },
	"backend_reset":  func(c conns) { _ = c.backend.SetLinger(0); c.backend.Close() },
	"idle_timeout":   func(c conns) { readToEnd(c.client) },
}

// readToEnd reads until the end, or until the timeout.
func readToEnd(conn net.Conn) {
	_ = conn.SetReadDeadline(time.Now().Add(relaytest.Limit))
	buf := make([]byte, 100)
	for {
		if _, err := conn.Read(buf); err != nil {
			return
		}
	}
}

// A relay that outlives a reload has its line, although the reload changed the
// file.
func TestAccessLogFileChangesDuringARelay(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		backend, at := newMortal(t).addr, freeAddr(t)
		config := block("TCP/"+at, fmt.Sprintf("%s {\n name %s\n access_log tcp\n }", backend, serviceAt(at)))
		s := start(t, config)
		conn := dial(t, "tcp", at)
		ask(t, conn, "x")
		before := s.log
		s.log = filepath.Join(t.TempDir(), "log")
		s.mustReload(config)
		conn.Close()
		relaytest.Eventually(t, "the end of the relay", func() bool { return active(serviceAt(at)) == 0 })
		count := func() (n int) {
			for _, line := range append(logged(t, before), logged(t, s.log)...) {
				if line["logger"] == accessLogger {
					n++
				}
			}
			return n
		}
		relaytest.Eventually(t, "its line", func() bool { return count() == 1 })
	})
}
