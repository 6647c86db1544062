package handler

import (
	"context"
	"net"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/zap/zapcore"

	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// brittle is a connection that panics.
type brittle struct {
	net.Conn
	read, write, close bool
}

func (b brittle) Read(p []byte) (int, error) {
	if b.read {
		panic("read panics")
	}
	return b.Conn.Read(p)
}

func (b brittle) Write(p []byte) (int, error) {
	if b.write {
		panic("write panics")
	}
	return b.Conn.Write(p)
}

func (b brittle) Close() error {
	if b.close {
		panic("close panics")
	}
	return b.Conn.Close()
}

// A panic ends the relay it is in: with resets, a line and its stack. Others
// do not notice.
func TestPanicEndsOneRelay(t *testing.T) {
	for _, test := range []struct {
		name    string
		brittle brittle
		stack   string // what must be found in it
		edit    func(*Options)
	}{
		{"on the way up", brittle{read: true}, "brittle.Read", nil},
		{"on the way down", brittle{write: true}, "brittle.Write", nil},
		{"and again at the end", brittle{read: true, close: true}, "brittle.Read", nil},
		{"on the way down and again at the end", brittle{write: true, close: true}, "brittle.Write", nil},
		{"at the idle timeout", brittle{close: true}, "brittle.Close", shortIdle},
	} {
		t.Run(test.name, func(t *testing.T) {
			noLeaks(t)
			server, conns := handOver(t, "127.0.0.1:0")
			edit := test.edit
			if edit == nil {
				edit = func(*Options) {}
			}
			calm := newRig(t, []string{server.String()})
			r := newRig(t, []string{server.String()}, edit)
			near, far := tcpPair(t)
			other, _ := calm.client()
			otherBackend := receiveFrom(t, "a connection", conns)

			b := test.brittle
			b.Conn = far
			done := r.serve(context.Background(), stream.Client{Conn: b, CloseWrite: far.CloseWrite, Socket: far})
			backend := receiveFrom(t, "a connection", conns)
			if b.write {
				say(t, backend, "hello")
			}
			receiveFrom(t, "the end", done)
			if test.edit == nil {
				wantEnding(t, "the client", near, "RST")
				wantEnding(t, "the backend", backend, "RST")
				if got := r.line("relay ended").ContextMap()["reason"]; got != string(stream.Panicked) {
					t.Errorf("ended by %v", got)
				}
			}
			wantPanicLine(t, r, test.stack)

			say(t, other, "calm")
			hear(t, otherBackend, "calm")
			if tcp, _ := r.service.Active(); tcp != 0 {
				t.Errorf("%d are active", tcp)
			}
		})
	}
}

func wantPanicLine(t *testing.T, r *rig, stack string) {
	t.Helper()
	lines := r.lines("relay ended by a panic")
	if len(lines) != 1 {
		t.Fatalf("%d lines tell of the panic:\n%s", len(lines), r.transcript())
	}
	fields := lines[0].ContextMap()
	if lines[0].Entry.Level != zapcore.ErrorLevel || fields["client"] == nil || fields["network"] != "tcp" || fields["service"] != "test" || fields["error"] == nil {
		t.Errorf("%s %v", lines[0].Entry.Level, fields)
	}
	if got, _ := fields["stack"].(string); !strings.Contains(got, stack) {
		t.Errorf("no %s in the stack:\n%v", stack, fields["stack"])
	}
}

func TestResolverPanics(t *testing.T) {
	noLeaks(t)
	live := serveTCP(t, "127.0.0.1:0", greet("live"))
	r := newRig(t, []string{"a.test:80", live.String()})
	r.resolver.set("a.test", panicAnswer)
	ann, done := r.client()
	wantEnding(t, "the client", ann, "RST")
	receiveFrom(t, "the end", done)
	wantPanicLine(t, r, "panicAnswer")
	r.wantLines("client refused", 1, "backend failed, first strike", 0)
	if tcp, _ := r.service.Active(); tcp != 0 {
		t.Errorf("%d are active", tcp)
	}

	r.resolver.set("a.test", errorAnswer(errNoSuchHost))
	bob, _ := r.client()
	hear(t, bob, "live")
}

// In the search itself, too: here it is the question whether the client left.
func TestClientPanicsDuringTheSearch(t *testing.T) {
	noLeaks(t)
	silent := newSilentTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{silent.String()})
	near, far := tcpPair(t)
	done := r.serve(context.Background(), stream.Client{Conn: far, Socket: haunted{far}})
	wantEnding(t, "the client", near, "RST")
	receiveFrom(t, "the end", done)
	wantPanicLine(t, r, "haunted")
	if s := r.status(silent.String(), upstream.TCP); s.Failed != 0 {
		t.Errorf("the backend is blamed: %+v", s)
	}
}

// haunted is a socket whose descriptor cannot be asked for.
type haunted struct{ *net.TCPConn }

func (haunted) SyscallConn() (syscall.RawConn, error) { panic("haunted") }
