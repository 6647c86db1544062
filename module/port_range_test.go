package module_test

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module"
)

// serveRange runs TCP and UDP echo servers on ports in a row of an address other than
// 127.0.0.1. Each answers with its port.
func serveRange(t *testing.T, ip string, first, count int) {
	t.Helper()
	if probe, err := net.Listen("tcp", net.JoinHostPort(ip, "0")); err != nil {
		t.Skipf("this machine has no address %s: %v", ip, err)
	} else {
		probe.Close()
	}
	for port := first; port < first+count; port++ {
		at := fmt.Sprintf("%s:%d", ip, port)
		echoTCPAt(t, fmt.Sprint(port), at)
		echoUDP(t, fmt.Sprint(port), at)
	}
}

// A client of each port of a range reaches the same port of a backend. The range is
// one service with one queue.
func TestPortOfTheClient(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		const count = 3
		first := freePorts(t, count)
		serveRange(t, "127.0.0.3", first, count)
		name := newName("range")
		at := fmt.Sprintf("127.0.0.1:%d-%d", first, first+count-1)
		s := start(t, fmt.Sprintf("TCP/%s UDP/%s {\n route {\n relay 127.0.0.2:{port} 127.0.0.3:{port} {\n name %s\n access_log all\n }\n }\n }\n", at, at, name))
		for port := first; port < first+count; port++ {
			for _, network := range []string{"tcp", "udp"} {
				conn := dial(t, network, fmt.Sprintf("127.0.0.1:%d", port))
				if got, want := ask(t, conn, "x"), fmt.Sprintf("%d x", port); got != want {
					t.Errorf("%s port %d: got %q, want %q", network, port, got, want)
				}
				conn.Close()
			}
		}
		status := module.StatsOf(name)
		if len(status.Backends) != 2 || status.Backends[0].Backend.Text != "127.0.0.3:{port}" {
			t.Errorf("the queue is %+v, want one whose first backend was moved to the end", status.Backends)
		}
		relaytest.Eventually(t, "the access log to have the dialled address", func() bool {
			for _, line := range logged(t, s.log) {
				if line["msg"] == "relayed" && line["network"] == "tcp" && line["address"] == fmt.Sprintf("127.0.0.3:%d", first+count-1) && line["backend"] == "127.0.0.3:{port}" {
					return true
				}
			}
			return false
		})
	})
}

// Clients that are held reach a backend that recovers on the port that they addressed.
func TestPortOfHeldClients(t *testing.T) {
	first := freePorts(t, 2)
	serveRange(t, "127.0.0.3", freePort(t), 1) // skips the test where there is no such address
	at := fmt.Sprintf("127.0.0.1:%d-%d", first, first+1)
	name := newName("range")
	start(t, fmt.Sprintf("TCP/%s UDP/%s {\n route {\n relay 127.0.0.3:{port} {\n name %s\n hold 1m\n }\n }\n }\n", at, at, name))
	tcp, udp := dial(t, "tcp", fmt.Sprintf("127.0.0.1:%d", first+1)), dial(t, "udp", fmt.Sprintf("127.0.0.1:%d", first+1))
	for _, conn := range []net.Conn{tcp, udp} {
		_, err := conn.Write([]byte("x"))
		relaytest.Check(t, err)
	}
	relaytest.Eventually(t, "both to be held", func() bool { return module.StatsOf(name).Held == 2 })
	serveRange(t, "127.0.0.3", first+1, 1)
	for _, conn := range []net.Conn{tcp, udp} {
		got := make([]byte, 100)
		n, err := conn.Read(got)
		if want := fmt.Sprintf("%d x", first+1); err != nil || string(got[:n]) != want {
			t.Errorf("%s: got %q, %v, want %q", conn.LocalAddr().Network(), got[:n], err, want)
		}
	}
}

func TestPortOfTheClientIsChecked(t *testing.T) {
	first := freePorts(t, 2)
	at := fmt.Sprintf("127.0.0.1:%d-%d", first, first+1)
	s := start(t, block("TCP/"+freeAddr(t), "127.0.0.1:1"))
	for relay, want := range map[string]string{
		"127.0.0.1:{port}":                      "leads back to service",
		"127.0.0.3:{port} {\n health_check\n }": "health_check.port: required",
		"127.0.0.3:{port} 127.0.0.3:{port}":     "listed twice",
		"127.0.0.3:1{port}":                     "{port}",
	} {
		err := s.reload(block("TCP/"+at, relay))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", relay, err, want)
		}
	}
	s.mustReload(block("TCP/"+at, "127.0.0.3:{port} {\n health_check {\n port 1\n }\n }"))
}
