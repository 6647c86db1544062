package module_test

import (
	"fmt"
	"io"
	"net"
	"testing"
)

// wantReason checks the only line of the access log: the reason and the bytes.
func (s *server) wantReason(want string, up, down int) {
	s.t.Helper()
	lines := s.accesses(1)
	if len(lines) != 1 || lines[0]["reason"] != want || lines[0]["bytes_up"] != float64(up) || lines[0]["bytes_down"] != float64(down) {
		s.t.Errorf("%v, want one line with reason %s, %d and %d bytes", lines, want, up, down)
	}
}

// The access log gives the reason of each end, for plain sockets and behind TLS.
func TestAccessLogReasons(t *testing.T) {
	for _, wrapped := range []bool{false, true} {
		for reason, end := range accessEnds {
			t.Run(fmt.Sprintf("%s, tls %v", reason, wrapped), func(t *testing.T) {
				overBoth(t, func(t *testing.T) {
					ln, at := listenTCP(t), freeAddr(t)
					idle := "1m"
					if reason == "idle_timeout" {
						idle = "1500ms"
					}
					relay := fmt.Sprintf("%s {\n access_log tcp\n idle_timeout %s\n }", ln.Addr(), idle)
					var s *server
					var c conns
					if wrapped {
						s = startBehindTLS(t, at, relay)
						c.socket = dial(t, "tcp", at).(*net.TCPConn)
						c.client = tlsClient(c.socket)
					} else {
						s = start(t, block("TCP/"+at, relay))
						c.socket = dial(t, "tcp", at).(*net.TCPConn)
						c.client = c.socket
					}
					if _, err := io.WriteString(c.client, "hello"); err != nil {
						t.Fatal(err)
					}
					c.backend = accept(t, ln)
					pass(t, c.backend, c.client, "you")
					if _, err := io.ReadFull(c.backend, make([]byte, 5)); err != nil {
						t.Fatal(err)
					}
					end(c)
					s.wantReason(reason, 5, 3)
				})
			})
		}
	}
}

// pass sends text from one end to the other.
func pass(t *testing.T, from, to net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(from, text); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(to, make([]byte, len(text))); err != nil {
		t.Fatal(err)
	}
}

// Refused clients have a line, too.
func TestAccessLogOfRefused(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		dead, at := freeAddr(t), freeAddr(t)
		s := start(t, fmt.Sprintf("TCP/%s UDP/%s {\n route {\n relay %s {\n name %s\n access_log all\n idle_timeout 300ms\n }\n }\n }\n", at, at, dead, serviceAt(at)))
		turnedAway(t, at)
		_, _ = dial(t, "udp", at).Write([]byte("x"))
		lines := s.accesses(2)
		for i, network := range []string{"tcp", "udp"} {
			if i >= len(lines) || lines[i]["network"] != network || lines[i]["reason"] != "refused_no_backend" || lines[i]["bytes_down"] != 0.0 {
				t.Fatalf("%s: %v", network, lines)
			}
			if attempts, _ := lines[i]["attempts"].([]any); len(attempts) != 2 {
				t.Errorf("%s: attempts %v", network, lines[i]["attempts"])
			}
		}
	})
}

// The line of a client refused at the limit has no attempts.
func TestAccessLogAtTheLimit(t *testing.T) {
	backend, at := newMortal(t).addr, freeAddr(t)
	s := start(t, block("TCP/"+at, backend+" {\n access_log tcp\n max_connections 1\n }"))
	ask(t, dial(t, "tcp", at), "x")
	turnedAway(t, at)
	s.wantReason("refused_limit", 0, 0)
	if attempts, ok := s.accesses(1)[0]["attempts"].([]any); !ok || len(attempts) != 0 {
		t.Errorf("attempts: %v", s.accesses(1)[0])
	}
}

// Relays of a removed service are cut after its grace period.
func TestAccessLogOfCutRelays(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		backend, at, other := newMortal(t).addr, freeAddr(t), freeAddr(t)
		rest := block("TCP/"+other, backend+" {\n name "+serviceAt(other)+"\n }")
		s := start(t, rest+fmt.Sprintf("TCP/%s UDP/%s {\n route {\n relay %s {\n name %s\n access_log all\n grace_period 10ms\n }\n }\n }\n", at, at, backend, serviceAt(at)))
		client := dial(t, "tcp", at)
		ask(t, client, "hello")
		ask(t, dial(t, "udp", at), "you")
		s.mustReload(rest)
		reset(t, client)
		for _, line := range s.accesses(2) {
			want := map[any]float64{"tcp": 5, "udp": 3}[line["network"]]
			if line["reason"] != "reload" || line["bytes_up"] != want || line["bytes_down"] != want+2 {
				t.Errorf("%v", line)
			}
		}
	})
}

func TestAccessLogAtExit(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		backend, at := newMortal(t).addr, freeAddr(t)
		p := startProcess(t, fmt.Sprintf("TCP/%s UDP/%s {\n route {\n relay %s {\n access_log all\n shutdown_timeout 200ms\n }\n }\n }\n", at, at, backend), 0)
		client := dial(t, "tcp", at)
		ask(t, client, "hello")
		ask(t, dial(t, "udp", at), "you")
		p.terminate()
		if status := p.status(); status != 0 {
			t.Errorf("status %d", status)
		}
		lines := p.accesses(2)
		if len(lines) != 2 || lines[0]["network"] == lines[1]["network"] {
			t.Errorf("%v", lines)
		}
		for _, line := range lines {
			if line["reason"] != "shutdown" {
				t.Errorf("%v", line)
			}
		}
	})
}
