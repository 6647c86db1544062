package module_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module"
	"github.com/async-relay/caddy-relay/upstream"
)

// unanswered checks that a datagram gets neither an answer nor an error.
func unanswered(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Errorf("write: %v", err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes, %v, want silence", n, err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(relaytest.Limit))
}

// waitLogged waits until the counts in the lines of a message add up to tcp and
// udp.
func (s *server) waitLogged(message string, tcp, udp float64) {
	s.t.Helper()
	relaytest.Eventually(s.t, message, func() bool {
		counts := make(map[any]float64)
		for _, line := range s.lines(message) {
			counts[line["network"]] += line["count"].(float64)
		}
		return counts["tcp"] == tcp && counts["udp"] == udp
	})
}

// TCP connections and UDP sessions share one limit.
func TestMaxConnections(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		backend, at := newMortal(t).addr, freeAddr(t)
		config := func(limit int) string {
			return fmt.Sprintf("TCP/%s UDP/%s {\n route {\n relay %s {\n name %s\n max_connections %d\n }\n }\n }\n", at, at, backend, serviceAt(at), limit)
		}
		s := start(t, config(2))
		first, second := dial(t, "tcp", at), dial(t, "udp", at)
		ask(t, first, "x")
		ask(t, second, "x")
		for range 5 {
			turnedAway(t, at)
		}
		late := dial(t, "udp", at)
		for range 5 {
			unanswered(t, late)
		}
		s.waitLogged("client refused, too many connections", 5, 5)
		refused := module.StatsOf(serviceAt(at)).Refused
		if refused[upstream.TCP][handler.RefusedTooMany] != 5 || refused[upstream.UDP][handler.RefusedTooMany] != 5 {
			t.Errorf("refused: %v", refused)
		}
		for _, conn := range []net.Conn{first, second} {
			if got := ask(t, conn, "y"); got != "b y" {
				t.Errorf("one that was there got %q", got)
			}
		}

		first.Close()
		relaytest.Eventually(t, "room for one", func() bool { return active(serviceAt(at)) == 1 })
		if got := ask(t, late, "z"); got != "b z" {
			t.Errorf("in the place of another: got %q", got)
		}
		turnedAway(t, at)
		s.mustReload(config(3))
		if got := ask(t, dial(t, "tcp", at), "z"); got != "b z" {
			t.Errorf("after the reload: got %q", got)
		}
		turnedAway(t, at)
		s.mustReload(config(1)) // existing relays stay
		if got := ask(t, late, "z"); got != "b z" {
			t.Errorf("beyond the limit that came later: got %q", got)
		}
		turnedAway(t, at)
	})
}

func TestMaxConnectionsPerIP(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		backend, at := newMortal(t).addr, freeAddr(t)
		s := start(t, fmt.Sprintf("TCP/%s UDP/%s {\n route {\n relay %s {\n name %s\n max_connections_per_ip 2\n }\n }\n }\n", at, at, backend, serviceAt(at)))
		first := dial(t, "tcp", at)
		ask(t, first, "x")
		ask(t, dial(t, "udp", at), "x")
		turnedAway(t, at)
		late := dial(t, "udp", at)
		unanswered(t, late)
		s.waitLogged("client refused, too many connections from its address", 1, 1)

		other := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
		if conn, err := other.Dial("tcp", at); err != nil {
			t.Log("no second address on this machine: ", err)
		} else {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(relaytest.Limit))
			if got := ask(t, conn, "x"); got != "b x" {
				t.Errorf("another address got %q", got)
			}
		}
		if _, err := io.WriteString(first, "y"); err != nil {
			t.Fatal(err)
		}
		first.Close()
		relaytest.Eventually(t, "its end", func() bool { return len(s.lines("relay ended")) == 1 })
		if got := ask(t, late, "z"); got != "b z" {
			t.Errorf("in the place of another: got %q", got)
		}
		refused := module.StatsOf(serviceAt(at)).Refused
		if refused[upstream.TCP][handler.RefusedTooManyIP] != 1 || refused[upstream.UDP][handler.RefusedTooManyIP] != 1 {
			t.Errorf("refused: %v", refused)
		}
	})
}

// Clients that allow and deny refuse get a RST, or no answer, on the direct way and
// through layer4. A reload changes that for new clients only.
func TestAllowAndDeny(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		backend, at := newMortal(t).addr, freeAddr(t)
		dir := t.TempDir()
		config := func(refused string) string {
			// Caddy does not load a config that has not changed, so each list has a file.
			list := filepath.Join(dir, strings.ReplaceAll(refused, "/", "-"))
			relaytest.Check(t, os.WriteFile(list, []byte(refused+" # a comment\n"), 0o600))
			return fmt.Sprintf("TCP/%s UDP/%s {\n route {\n relay %s {\n name %s\n allow private_ranges\n deny {file.%s}\n }\n }\n }\n",
				at, at, backend, serviceAt(at), list)
		}
		s := start(t, config("192.0.2.0/24"))
		tcp, udp := dial(t, "tcp", at), dial(t, "udp", at)
		for _, conn := range []net.Conn{tcp, udp} {
			if got := ask(t, conn, "x"); got != "b x" {
				t.Errorf("an allowed client got %q", got)
			}
		}

		s.mustReload(config("127.0.0.0/8"))
		turnedAway(t, at)
		late := dial(t, "udp", at)
		unanswered(t, late)
		s.waitLogged("client refused, address not allowed", 1, 1)
		for _, conn := range []net.Conn{tcp, udp} {
			if got := ask(t, conn, "y"); got != "b y" {
				t.Errorf("a client from before the reload got %q", got)
			}
		}
		refused := module.StatsOf(serviceAt(at)).Refused
		if refused[upstream.TCP][handler.RefusedDenied] != 1 || refused[upstream.UDP][handler.RefusedDenied] == 0 {
			t.Errorf("refused: %v", refused)
		}
		name := metricPrefix + `refused_total{network="tcp",reason="denied",service="` + serviceAt(at) + `"}`
		if got := s.scrape()[name]; got != 1 {
			t.Errorf("%s is %v", name, got)
		}

		s.mustReload(config("192.0.2.0/24"))
		for _, conn := range []net.Conn{dial(t, "tcp", at), late} {
			if got := ask(t, conn, "z"); got != "b z" {
				t.Errorf("allowed again: got %q", got)
			}
		}
	})
}
