package module_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module"
	"github.com/async-relay/caddy-relay/upstream"
)

// looping is the line of an attempt that was refused.
const looping = "attempt refused, backend leads back to this relay"

// bothOn returns a layer4 server on TCP and UDP of a port, with one relay. It listens
// on IPv4 only, so that the config does not show that localhost leads to it.
func bothOn(port int, name string, backends ...string) string {
	at := fmt.Sprintf("0.0.0.0:%d", port)
	return named("TCP/"+at+" UDP/"+at, name, strings.Join(backends, " "))
}

func localhost(port int) string { return fmt.Sprintf("localhost:%d", port) }

// wantRefused checks that a TCP client is reset or closed without an answer.
func wantRefused(t *testing.T, addr string) {
	t.Helper()
	conn := dial(t, "tcp", addr)
	_, _ = conn.Write([]byte("x"))
	if n, err := conn.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes, error %v; want the connection to be refused", n, err)
	}
}

// wantLoopLines waits for a line that names both services, on each network.
func (s *server) wantLoopLines(service, other string) {
	s.t.Helper()
	s.wantLoopLine("tcp", service, other)
	s.wantLoopLine("udp", service, other)
}

func (s *server) wantLoopLine(network, service, other string) {
	s.t.Helper()
	relaytest.Eventually(s.t, "a line about a loop over "+network, func() bool {
		return slices.ContainsFunc(s.lines(looping), func(line map[string]any) bool {
			return line["service"] == service && line["network"] == network && line["level"] == "error" &&
				strings.Contains(line["error"].(string), fmt.Sprintf("leads back to service %q", other))
		})
	})
}

// A relay whose backend's name leads to its own listener refuses the attempt. One
// datagram makes one session, and one client one relay.
func TestSelfLoop(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		port := freePort(t)
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		s := start(t, bothOn(port, serviceAt(addr), localhost(port)))
		wantRefused(t, addr)
		_, _ = dial(t, "udp", addr).Write([]byte("x"))
		s.wantLoopLines(serviceAt(addr), serviceAt(addr))
		if n := module.StatsOf(serviceAt(addr)).Active[upstream.UDP]; n != 1 {
			t.Errorf("%d sessions, want 1", n)
		}
		for _, n := range []upstream.Network{upstream.TCP, upstream.UDP} {
			if use := useOf(serviceAt(addr), localhost(port), n); use.Connections > 0 {
				t.Errorf("%d %s connections to itself", use.Connections, n)
			}
		}
	})
}

// A relay that leads to itself is like a dead backend: the next one serves.
func TestSelfLoopWithAnotherBackend(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		port := freePort(t)
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		backend, _ := echoTCP(t, "echo")
		_, _ = echoUDP(t, "echo", backend)
		s := start(t, bothOn(port, serviceAt(addr), localhost(port), backend))
		if got := ask(t, dial(t, "tcp", addr), "x"); got != "echo x" {
			t.Errorf("answer %q", got)
		}
		if got := keepAsking(t, dial(t, "udp", addr), "x"); got != "echo x" {
			t.Errorf("answer %q", got)
		}
		// The queue is shared: UDP begins with the backend that serves TCP.
		s.wantLoopLine("tcp", serviceAt(addr), serviceAt(addr))
		if use := useOf(serviceAt(addr), localhost(port), upstream.TCP); use.Connections > 0 {
			t.Errorf("%d connections to itself", use.Connections)
		}
	})
}

// A client is held while its service has no backend but itself, and no attempt on
// its behalf reaches the service.
func TestSelfLoopWithHold(t *testing.T) {
	port := freePort(t)
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	s := start(t, bothOn(port, serviceAt(addr)+"\n hold 1s\n health_check {\n interval 20ms\n }", localhost(port)))
	wantRefused(t, addr)
	s.wantLoopLine("tcp", serviceAt(addr), serviceAt(addr))
	if n := len(s.lines("backend recovered")); n > 1 { // once by a check before the first client
		t.Errorf("the backend recovered %d times", n)
	}
}

// Two relays that are each other's backend refuse the attempt that would close the
// loop.
func TestCrossLoop(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		one, other := freePort(t), freePort(t)
		addr := fmt.Sprintf("127.0.0.1:%d", one)
		a, b := unique("a"), unique("b")
		s := start(t, bothOn(one, a, localhost(other))+bothOn(other, b, localhost(one)))
		wantRefused(t, addr)
		_, _ = dial(t, "udp", addr).Write([]byte("x"))
		s.wantLoopLines(b, a)
		for _, service := range []string{a, b} {
			if n := module.StatsOf(service).Active[upstream.UDP]; n != 1 {
				t.Errorf("service %s has %d sessions, want 1", service, n)
			}
		}
	})
}

// A relay may be the backend of another, on the same machine and in one config.
func TestChainOfRelays(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		ports := []int{freePort(t), freePort(t), freePort(t)}
		backend, _ := echoTCP(t, "echo")
		_, _ = echoUDP(t, "echo", backend)
		names := []string{unique("chain"), unique("chain"), unique("chain")}
		s := start(t, bothOn(ports[0], names[0], fmt.Sprintf("127.0.0.1:%d", ports[1]))+
			bothOn(ports[1], names[1], localhost(ports[2]))+
			bothOn(ports[2], names[2], backend))
		addr := fmt.Sprintf("127.0.0.1:%d", ports[0])
		var clients sync.WaitGroup
		for range 8 {
			tcp, udp := dial(t, "tcp", addr), dial(t, "udp", addr)
			clients.Go(func() {
				if got := ask(t, tcp, "x"); got != "echo x" {
					t.Errorf("answer %q", got)
				}
				if got := keepAsking(t, udp, "x"); got != "echo x" {
					t.Errorf("answer %q", got)
				}
			})
		}
		clients.Wait()
		if lines := s.lines(looping); len(lines) > 0 {
			t.Errorf("refused: %v", lines)
		}
		if n := s.lines("backend failed, first strike"); len(n) > 0 {
			t.Errorf("strikes: %v", n)
		}
	})
}

// A loop over an address of an interface is found like one over loopback.
func TestLoopOverInterfaceAddress(t *testing.T) {
	local := interfaceAddress(t)
	overBoth(t, func(t *testing.T) {
		port := freePort(t)
		addr := net.JoinHostPort(local, fmt.Sprint(port))
		s := start(t, bothOn(port, serviceAt(addr), addr))
		wantRefused(t, fmt.Sprintf("127.0.0.1:%d", port))
		_, _ = dial(t, "udp", addr).Write([]byte("x"))
		s.wantLoopLines(serviceAt(addr), serviceAt(addr))
	})
}

// interfaceAddress returns an IPv4 address of this machine that is not loopback.
func interfaceAddress(t *testing.T) string {
	list, err := net.InterfaceAddrs()
	relaytest.Check(t, err)
	for _, one := range list {
		if prefix, ok := one.(*net.IPNet); ok && prefix.IP.To4() != nil && !prefix.IP.IsLoopback() {
			return prefix.IP.String()
		}
	}
	t.Skip("this machine has no IPv4 address but loopback")
	panic("unreachable")
}

// The PROXY protocol hides the address of the client, but not the loop.
func TestLoopWithProxyProtocol(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		one, other := freePort(t), freePort(t)
		server := func(port int, name, backend string) string {
			return fmt.Sprintf("TCP/0.0.0.0:%d {\n route {\n proxy_protocol\n relay %s {\n name %s\n proxy_protocol v2\n }\n }\n }\n", port, backend, name)
		}
		a, b := unique("a"), unique("b")
		s := start(t, server(one, a, localhost(other))+server(other, b, localhost(one)))
		conn := dial(t, "tcp", fmt.Sprintf("127.0.0.1:%d", one))
		_, _ = io.WriteString(conn, "PROXY TCP4 192.0.2.7 192.0.2.8 1000 2000\r\nx")
		_, _ = conn.Read(make([]byte, 1))
		relaytest.Eventually(t, "a line about the loop", func() bool { return len(s.lines(looping)) > 0 })
		if line := s.lines(looping)[0]; line["service"] != b || !strings.Contains(line["error"].(string), fmt.Sprintf("%q", a)) {
			t.Errorf("line %v", line)
		}
		if n := useOf(a, localhost(other), upstream.TCP).Connections; n != 1 {
			t.Errorf("%d connections from %s to %s, want 1", n, a, b)
		}
	})
}

// A listener on all IPv6 addresses alone has the same port as a program on IPv4. The
// program is a backend of it, and another relay may listen on IPv4.
func TestIPv6ListenerOfAnIPv4Backend(t *testing.T) {
	for _, network := range []string{"tcp6", "udp6"} {
		t.Run(network, func(t *testing.T) {
			port := freePort(t)
			front := fmt.Sprintf("[::1]:%d", port)
			socket, err := net.Listen("tcp6", front)
			if err != nil {
				t.Skip(err) // no IPv6 on this system
			}
			relaytest.Check(t, socket.Close())
			backend := fmt.Sprintf("127.0.0.1:%d", port)
			echoTCPAt(t, "echo", backend)
			echoUDP(t, "echo", backend)
			start(t, named(fmt.Sprintf("%s/[::]:%d", network, port), serviceAt(backend), backend))
			got := ""
			if network == "tcp6" {
				got = ask(t, dial(t, "tcp", front), "x")
			} else {
				got = keepAsking(t, dial(t, "udp", front), "x")
			}
			if got != "echo x" {
				t.Errorf("answer %q", got)
			}
		})
	}
	t.Run("two listeners", func(t *testing.T) {
		port, other := freePort(t), freePort(t)
		backend, _ := echoTCP(t, "echo")
		socket, err := net.Listen("tcp6", fmt.Sprintf("[::1]:%d", other))
		if err != nil {
			t.Skip(err) // no IPv6 on this system
		}
		relaytest.Check(t, socket.Close())
		start(t, named(fmt.Sprintf("tcp6/:%d", port), serviceAt(backend), backend)+
			named(fmt.Sprintf("relay+tcp/0.0.0.0:%d", port), serviceAt("four"), backend))
		for _, host := range []string{"127.0.0.1", "[::1]"} {
			if got := ask(t, dial(t, "tcp", fmt.Sprintf("%s:%d", host, port)), "x"); got != "echo x" {
				t.Errorf("%s: answer %q", host, got)
			}
		}
	})
}
