package handler

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// Without Send and Expect a probe is a connect that ends with a reset.
func TestHealthConnect(t *testing.T) {
	relaytest.NoLeaks(t)
	server, conns := acceptTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{server.String()})
	r.prober(HealthCheck{Networks: onTCP}, server.String())()
	wantEnding(t, "the backend", relaytest.Receive(t, "the probe", conns), "RST")
	line := r.line("connected")
	if line.Entry.Level != zapcore.DebugLevel || line.ContextMap()["client"] != "health check" {
		t.Errorf("logged as %s %v", line.Entry.Level, line.ContextMap())
	}
	if s := r.status(server.String(), upstream.TCP); s.Succeeded != 1 || s.Failed != 0 {
		t.Errorf("recorded as %+v", s)
	}
}

// A failed probe is repeated at once and demotes as two failures of a client do.
func TestHealthRefused(t *testing.T) {
	relaytest.NoLeaks(t)
	dead := deadTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{dead, "192.0.2.1:80"})
	r.prober(HealthCheck{Networks: onTCP}, dead)()
	for i, message := range []string{"backend failed, first strike", "backend failed, second strike"} {
		line := r.line(message).ContextMap()
		if line["client"] != "health check" || line["attempt"] != int64(i+1) || line["address"] != dead {
			t.Errorf("%s: %v", message, line)
		}
	}
	r.wantLines("backend order changed", 1)
	s := r.status(dead, upstream.TCP)
	if s.State != upstream.Down || s.LastFailure.Address != netip.MustParseAddrPort(dead) {
		t.Errorf("%+v", s)
	}
}

// With Send the answer decides, and the connection ends with a FIN.
func TestHealthExchangeOverTCP(t *testing.T) {
	relaytest.NoLeaks(t)
	seen := make(chan string, 3) // what each connection sent, and how it ended
	server := serveTCP(t, "127.0.0.1:0", func(conn *net.TCPConn) {
		buf := make([]byte, 64)
		n, _ := conn.Read(buf)
		_, _ = io.WriteString(conn, "+PONG\r\n")
		seen <- string(buf[:n]) + ending(conn)
	})
	r := newRig(t, []string{server.String()})
	r.prober(HealthCheck{Networks: onTCP, Send: []byte("PING\r\n"), Expect: [][]byte{[]byte("PONG")}}, server.String())()
	if got := relaytest.Receive(t, "the end", seen); got != "PING\r\nFIN" {
		t.Errorf("the backend saw %q", got)
	}
	r.wantState(server.String(), upstream.TCP, upstream.Up)

	r.prober(HealthCheck{Networks: onTCP, Send: []byte("PING\r\n"), Expect: [][]byte{[]byte("nothing of the kind")}, Timeout: 100 * time.Millisecond}, server.String())()
	r.wantState(server.String(), upstream.TCP, upstream.Down)
	if got := r.status(server.String(), upstream.TCP).LastFailure.Error; !strings.Contains(got, errHealthTimeout.Error()) {
		t.Errorf("failed with %q", got)
	}
}

// With Expect alone the server speaks first.
func TestHealthGreeting(t *testing.T) {
	relaytest.NoLeaks(t)
	server := serveTCP(t, "127.0.0.1:0", greet("220 mail\r\n"))
	r := newRig(t, []string{server.String()})
	r.prober(HealthCheck{Networks: onTCP, Expect: [][]byte{[]byte("220")}}, server.String())()
	r.wantState(server.String(), upstream.TCP, upstream.Up)
	r.prober(HealthCheck{Networks: onTCP, Expect: [][]byte{[]byte("554")}, Timeout: 100 * time.Millisecond}, server.String())()
	r.wantState(server.String(), upstream.TCP, upstream.Down)
}

// An exchange passes once Expect arrives in time, however a stream cuts the
// answer into pieces, or within one datagram.
func TestHealthExchange(t *testing.T) {
	const full = 64 << 10
	for name, test := range map[string]struct {
		send, expect string
		datagrams    bool
		pieces       []string
		ends         bool   // the backend closes the connection after the pieces
		want         string // part of the error; "": none
	}{
		"any byte":                      {"ping", "", false, []string{"x"}, false, ""},
		"no byte":                       {"ping", "", false, nil, true, "EOF"},
		"no byte in time":               {"ping", "", false, nil, false, "health check timeout, after 0 bytes"},
		"part of a read":                {"ping", "pong", false, []string{"-pong-"}, false, ""},
		"cut in the middle":             {"ping", "pong", false, []string{"-po", "ng"}, false, ""},
		"byte by byte":                  {"ping", "pong", false, strings.Split("-pong", ""), false, ""},
		"late":                          {"ping", "pong", false, []string{strings.Repeat("-", 1000), "pong"}, false, ""},
		"wrong answer":                  {"ping", "pong", false, []string{"error"}, true, "EOF, after 5 bytes"},
		"wrong answer, left open":       {"ping", "pong", false, []string{"error"}, false, "health check timeout, after 5 bytes"},
		"at the end of 64 KiB":          {"ping", "pong", false, []string{strings.Repeat("-", full-4), "pong"}, false, ""},
		"beyond 64 KiB":                 {"ping", "pong", false, []string{strings.Repeat("-", full-3), "pong"}, false, "not in its first 65536 bytes"},
		"a greeting":                    {"", "220", false, []string{"220 mail"}, false, ""},
		"any datagram":                  {"ping", "", true, []string{"x"}, false, ""},
		"an empty datagram":             {"ping", "", true, []string{""}, false, ""},
		"wrong datagram before":         {"ping", "pong", true, []string{"error", "pong"}, false, ""},
		"datagrams are no stream":       {"ping", "pong", true, []string{"po", "ng"}, false, "health check timeout"},
		"more than 64 KiB of datagrams": {"ping", "pong", true, []string{strings.Repeat("-", 60000), strings.Repeat("-", 60000), "pong"}, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				defer near.Close()
				go func() { // ends when near is closed
					heard := make([]byte, len(test.send))
					if _, err := io.ReadFull(far, heard); err != nil || string(heard) != test.send {
						t.Errorf("heard %q, %v", heard, err)
					}
					for _, piece := range test.pieces {
						_, _ = io.WriteString(far, piece)
					}
					if test.ends {
						far.Close()
					}
				}()
				ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errHealthTimeout)
				defer cancel()
				check := HealthCheck{Send: []byte(test.send), Expect: [][]byte{[]byte(test.expect)}}
				err := check.exchange(ctx, near, check.Send, !test.datagrams)
				if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
					t.Errorf("%v, want %q", err, test.want)
				}
			})
		})
	}
}

// A backend that does not read what is sent fails at the timeout.
func TestHealthSendTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		defer near.Close()
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errHealthTimeout)
		defer cancel()
		check := HealthCheck{Send: []byte("ping")}
		if err := check.exchange(ctx, near, check.Send, true); !errors.Is(err, errHealthTimeout) {
			t.Errorf("%v, want %v", err, errHealthTimeout)
		}
	})
}

func TestHealthUDP(t *testing.T) {
	ping := HealthCheck{Networks: onUDP, Send: []byte("ping"), Expect: [][]byte{[]byte("in")}}
	t.Run("answer", func(t *testing.T) {
		relaytest.NoLeaks(t)
		b := relaytest.NewUDPBackend(t, relaytest.Echo)
		r := newRig(t, []string{b.Addr})
		r.prober(ping, b.Addr)()
		if got := relaytest.Receive(t, "the datagram", b.Received); got != "ping" {
			t.Errorf("was sent %q", got)
		}
		if s := r.status(b.Addr, upstream.UDP); s.Succeeded != 1 {
			t.Errorf("%+v", s)
		}
		relaytest.Check(t, b.Conn.Close())
	})
	t.Run("refusal fails at once", func(t *testing.T) {
		relaytest.NoLeaks(t)
		r := newRig(t, []string{deadAddr})
		check := ping
		check.Timeout = time.Hour // longer than the test may take
		r.prober(check, deadAddr)()
		r.wantStrikes(deadAddr, 0, upstream.Down)
		r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 1)
		r.wantState(deadAddr, upstream.TCP, upstream.Up)
	})
	t.Run("silence and a wrong answer fail", func(t *testing.T) {
		relaytest.NoLeaks(t)
		var probes sync.WaitGroup
		var checks []func()
		for _, answer := range []func([]byte) []byte{
			func([]byte) []byte { return nil },
			func([]byte) []byte { return []byte("wrong") },
		} {
			b := relaytest.NewUDPBackend(t, answer)
			r := newRig(t, []string{b.Addr})
			quick := ping
			quick.Timeout = soon
			probes.Go(r.prober(quick, b.Addr))
			checks = append(checks, func() {
				r.wantStrikes(b.Addr, 0, upstream.Down)
				for range 2 { // one for each attempt
					relaytest.Receive(t, "a datagram", b.Received)
				}
				relaytest.Check(t, b.Conn.Close())
			})
		}
		probes.Wait()
		for _, check := range checks {
			check()
		}
	})
	t.Run("another address of the name answers", func(t *testing.T) {
		relaytest.NoLeaks(t)
		b := relaytest.NewUDPBackend(t, relaytest.Echo)
		_, port, err := net.SplitHostPort(b.Addr)
		relaytest.Check(t, err)
		silent, err := net.ListenPacket("udp4", net.JoinHostPort(lo(t, 2), port))
		relaytest.Check(t, err)
		defer silent.Close()
		name := "a.test:" + port
		r := newRig(t, []string{name})
		r.resolver.set("a.test", addrsAnswer(lo(t, 2), lo(t, 3), "127.0.0.1")) // silent, dead, alive
		some := ping
		some.Timeout = 3 * time.Second
		r.prober(some, name)()
		r.wantLines("connected", 1, "backend failed, first strike", 0)
		if got := r.service.Pool.Backend(name).Preferred(upstream.UDP); got.String() != "127.0.0.1" {
			t.Errorf("%s is preferred", got)
		}
		relaytest.Check(t, b.Conn.Close())
	})
}
