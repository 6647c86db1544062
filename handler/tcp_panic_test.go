package handler

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"go.uber.org/zap/zapcore"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// panickingConn is a connection whose methods panic.
type panickingConn struct {
	net.Conn
	read, write, close bool
}

func (c panickingConn) Read(p []byte) (int, error) {
	if c.read {
		panic("read panics")
	}
	return c.Conn.Read(p)
}

func (c panickingConn) Write(p []byte) (int, error) {
	if c.write {
		panic("write panics")
	}
	return c.Conn.Write(p)
}

func (c panickingConn) Close() error {
	if c.close {
		panic("close panics")
	}
	return c.Conn.Close()
}

// A panic ends its relay with resets and one log line with the stack. Other relays
// continue.
func TestPanicEndsOneRelay(t *testing.T) {
	for _, test := range []struct {
		name  string
		conn  panickingConn
		stack string // part of the stack
		edit  func(*Options)
	}{
		{"client to backend", panickingConn{read: true}, "panickingConn.Read", nil},
		{"backend to client", panickingConn{write: true}, "panickingConn.Write", nil},
		{"client to backend, and in Close", panickingConn{read: true, close: true}, "panickingConn.Read", nil},
		{"backend to client, and in Close", panickingConn{write: true, close: true}, "panickingConn.Write", nil},
		{"in Close at the idle timeout", panickingConn{close: true}, "panickingConn.Close", shortIdle},
	} {
		t.Run(test.name, func(t *testing.T) {
			relaytest.NoLeaks(t)
			server, conns := acceptTCP(t, "127.0.0.1:0")
			edit := test.edit
			if edit == nil {
				edit = func(*Options) {}
			}
			unaffected := newRig(t, []string{server.String()})
			r := newRig(t, []string{server.String()}, edit)
			near, far := relaytest.TCPPair(t)
			other, _ := unaffected.client()
			otherBackend := relaytest.Receive(t, "a connection at the backend", conns)

			conn := test.conn
			conn.Conn = far
			done := r.serve(context.Background(), stream.Client{Conn: conn, CloseWriter: far, Socket: far})
			backend := relaytest.Receive(t, "a connection at the backend", conns)
			if conn.write {
				relaytest.Write(t, backend, "hello")
			}
			relaytest.Receive(t, "the end of the relay", done)
			if test.edit == nil {
				wantEnding(t, "the client", near, "RST")
				wantEnding(t, "the backend", backend, "RST")
				if got := r.line("relay ended").ContextMap()["reason"]; got != string(stream.Panicked) {
					t.Errorf("reason %v, want %s", got, stream.Panicked)
				}
			}
			wantPanicLine(t, r, test.stack)

			relaytest.Write(t, other, "unaffected")
			relaytest.WantRead(t, otherBackend, "unaffected")
			if tcp, _ := r.service.Active(); tcp != 0 {
				t.Errorf("%d active relays, want none", tcp)
			}
		})
	}
}

// wantPanicLine checks the only log line of a panic. stack is a part of its stack.
func wantPanicLine(t *testing.T, r *rig, stack string) {
	t.Helper()
	lines := r.lines("relay ended by a panic")
	if len(lines) != 1 {
		t.Fatalf("%d log lines for the panic, want one:\n%s", len(lines), r.transcript())
	}
	fields := lines[0].ContextMap()
	if lines[0].Entry.Level != zapcore.ErrorLevel || fields["client"] == nil || fields["network"] != "tcp" || fields["service"] != "test" || fields["error"] == nil {
		t.Errorf("logged at %s with %v, want ERROR, the service, network, client and error", lines[0].Entry.Level, fields)
	}
	if got, _ := fields["stack"].(string); !strings.Contains(got, stack) {
		t.Errorf("%s is not in the stack:\n%v", stack, fields["stack"])
	}
}

// A panic of the resolver ends the relay of its client. The next client is served.
func TestResolverPanics(t *testing.T) {
	relaytest.NoLeaks(t)
	live := serveTCP(t, "127.0.0.1:0", greet("live"))
	r := newRig(t, []string{"a.test:80", live.String()})
	r.resolver.set("a.test", panicAnswer)
	ann, done := r.client()
	wantEnding(t, "the client", ann, "RST")
	relaytest.Receive(t, "the end of the relay", done)
	wantPanicLine(t, r, "panicAnswer")
	r.wantLines("client refused", 1, "backend failed, first strike", 0)
	if tcp, _ := r.service.Active(); tcp != 0 {
		t.Errorf("%d active relays, want none", tcp)
	}

	r.resolver.set("a.test", errorAnswer(errNoSuchHost))
	bob, _ := r.client()
	relaytest.WantRead(t, bob, "live")
}

// A panic during the check whether the client has left ends its relay too, and
// does not count against the backend.
func TestSocketPanicsDuringSearch(t *testing.T) {
	relaytest.NoLeaks(t)
	silent := newSilentTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{silent.String()})
	near, far := relaytest.TCPPair(t)
	done := r.serve(context.Background(), stream.Client{Conn: far, Socket: &panickingSocket{TCPConn: far}})
	wantEnding(t, "the client", near, "RST")
	relaytest.Receive(t, "the end of the relay", done)
	wantPanicLine(t, r, "panickingSocket")
	if s := r.status(silent.String(), upstream.TCP); s.Failed != 0 {
		t.Errorf("the panic counts against the backend: %+v", s)
	}
}

// panickingSocket is a socket whose SyscallConn panics after the first call, which
// is made before the search.
type panickingSocket struct {
	*net.TCPConn
	calls atomic.Int32
}

func (s *panickingSocket) SyscallConn() (syscall.RawConn, error) {
	if s.calls.Add(1) > 1 {
		panic("SyscallConn panics")
	}
	return s.TCPConn.SyscallConn()
}
