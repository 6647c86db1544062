package module_test

import (
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

func TestBothProtocolsOnOnePort(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		backend, _ := echoTCP(t, "tcp")
		echoUDP(t, "udp", backend)
		dead, at := freeAddr(t), freeAddr(t)
		s := start(t, fmt.Sprintf(`TCP/%s UDP/%s {
		route {
			relay %s %s {
				name both
			}
		}
	}`, at, at, dead, backend))

		if got := ask(t, dial(t, "tcp", at), "one"); got != "tcp one" {
			t.Errorf("tcp: got %q", got)
		}
		if got := ask(t, dial(t, "udp", at), "two"); got != "udp two" {
			t.Errorf("udp: got %q", got)
		}
		// Both networks share the order: two strikes on TCP moved the dead backend.
		if got := s.lines("backend order changed"); len(got) != 1 {
			t.Errorf("the order changed %d times, want once: %v", len(got), got)
		}
		strikes := append(s.lines("backend failed, first strike"), s.lines("backend failed, second strike")...)
		if len(strikes) != 2 || strikes[0]["service"] != "both" || strikes[0]["backend"] != dead || strikes[0]["network"] != "tcp" {
			t.Errorf("strikes: %v", strikes)
		}
	})
}

func TestIPv6(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		ln, err := net.Listen("tcp", fmt.Sprintf("[::1]:%d", freePort(t)))
		if err != nil {
			t.Skip("no IPv6 on this machine: ", err)
		}
		defer ln.Close()
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(conn, "six")
				conn.Close()
			}
		}()
		at := fmt.Sprintf("[::1]:%d", freePort(t))
		start(t, fmt.Sprintf("TCP/%s {\n route {\n relay %s\n }\n }", at, ln.Addr()))
		got, err := io.ReadAll(dial(t, "tcp", at)) // the server speaks first and closes
		if err != nil || string(got) != "six" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

func TestBytesReadByMatchersComeFirst(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		backend, _ := echoTCP(t, "b")
		at := freeAddr(t)
		start(t, fmt.Sprintf(`TCP/%s {
		@http http
		route @http {
			relay %s
		}
	}`, at, backend))
		request := "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"
		if got := ask(t, dial(t, "tcp", at), request); got != "b "+request {
			t.Errorf("got %q", got)
		}
	})
}

func TestDatagramsReadByMatchersComeFirst(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		backend, _ := echoUDP(t, "b", freeAddr(t))
		at := freeAddr(t)
		start(t, fmt.Sprintf(`UDP/%s {
		@hello regexp ^HELLO 5
		route @hello {
			relay %s
		}
	}`, at, backend))
		conn := dial(t, "udp", at)
		// The matcher sees two datagrams together. They must arrive as two.
		for _, part := range []string{"HE", "LLO"} {
			if _, err := conn.Write([]byte(part)); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []string{"b HE", "b LLO"} {
			buf := make([]byte, 100)
			n, err := conn.Read(buf)
			if err != nil || string(buf[:n]) != want {
				t.Fatalf("got %q, %v, want %q", buf[:n], err, want)
			}
		}
		if got := ask(t, conn, "later"); got != "b later" {
			t.Errorf("got %q", got)
		}
	})
}

func TestEmptyDatagrams(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		backend, _ := echoUDP(t, "b", freeAddr(t))
		at := freeAddr(t)
		start(t, fmt.Sprintf("UDP/%s {\n route {\n relay %s\n }\n }", at, backend))
		conn := dial(t, "udp", at)
		for range 3 {
			if got := ask(t, conn, ""); got != "b " {
				t.Errorf("got %q", got)
			}
		}
		if got := ask(t, conn, "full"); got != "b full" {
			t.Errorf("got %q", got)
		}
	})
}

func TestRefusedClientIsReset(t *testing.T) {
	overBoth(t, func(t *testing.T) {
		at, name := freeAddr(t), unique("gone") // lines of another service of this name would delay this one's
		s := start(t, fmt.Sprintf("TCP/%s {\n route {\n relay %s %s {\n name %s\n }\n }\n }", at, freeAddr(t), freeAddr(t), name))
		turnedAway(t, at)
		relaytest.Eventually(t, "the refusal's line", func() bool { return len(s.lines("client refused")) == 1 })
		if line := s.lines("client refused")[0]; line["level"] != "error" || line["service"] != name || line["count"] != 1.0 {
			t.Errorf("line: %v", line)
		}
		// caddy-l4 logs no error.
		if got := s.lines("all backends unavailable"); len(got) != 1 {
			t.Errorf("all backends unavailable was said %d times", len(got))
		}
	})
}
