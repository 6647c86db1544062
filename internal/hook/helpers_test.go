package hook

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// rig runs commands and records their log lines.
type rig struct {
	t    testing.TB
	log  *zap.Logger
	logs *observer.ObservedLogs
}

func newRig(t testing.TB) *rig {
	noLeaks(t)
	return newSharedRig(t)
}

// newSharedRig returns a rig for parallel tests. Their parent checks for leaks.
func newSharedRig(t testing.TB) *rig {
	core, logs := observer.New(zapcore.DebugLevel)
	return &rig{t: t, log: zap.New(core), logs: logs}
}

// config returns a Config that runs this program as a child, with args.
func (r *rig) config(args ...string) Config {
	return Config{Command: self(r.t), Args: append([]string{"child"}, args...), Timeout: relaytest.Limit, Log: r.log}
}

// run runs a child until it ends.
func (r *rig) run(e Event, args ...string) {
	execute(r.t.Context(), job{r.config(args...), e})
}

// self returns the path of this program.
func self(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	relaytest.Check(t, err)
	return path
}

// line returns the only log line with a message.
func (r *rig) line(message string) observer.LoggedEntry {
	r.t.Helper()
	lines := r.logs.FilterMessage(message).All()
	if len(lines) != 1 {
		r.t.Fatalf("%d lines %q, want one:\n%s", len(lines), message, r.transcript())
	}
	return lines[0]
}

// wantLine checks the only log line with a message: its level, and fields given
// as pairs of name and value.
func (r *rig) wantLine(level zapcore.Level, message string, fields ...any) {
	r.t.Helper()
	line := r.line(message)
	got := line.ContextMap()
	for i := 0; i < len(fields); i += 2 {
		if name := fields[i].(string); got[name] != fields[i+1] {
			r.t.Errorf("%s: %s is %v, want %v", message, name, got[name], fields[i+1])
		}
	}
	if line.Level != level || got["service"] != "test" || got["event"] != BackendFailed || got["command"] == nil {
		r.t.Errorf("%s at %s, want %s: %v", message, line.Level, level, got)
	}
}

// transcript returns the whole log, for failure messages.
func (r *rig) transcript() string {
	var b strings.Builder
	for _, e := range r.logs.All() {
		fmt.Fprintf(&b, "%s %s %v\n", e.Level, e.Message, e.ContextMap())
	}
	return b.String()
}

// started is a command that runs in parallel with its test.
type started struct {
	stop context.CancelCauseFunc
	done chan struct{} // closed when run has returned
}

func (r *rig) start(args ...string) started {
	ctx, stop := context.WithCancelCause(context.Background())
	s := started{stop, make(chan struct{})}
	go func() { // returns when the command ends; the cleanup stops it
		defer close(s.done)
		run(ctx, job{r.config(args...), failedEvent})
	}()
	r.t.Cleanup(func() {
		s.stop(errClosed)
		<-s.done
	})
	return s
}

var failedEvent = Event{Type: BackendFailed, Service: "test"}

// lifelines is a listener that child processes connect to. A connection closes
// when its process ends.
type lifelines struct {
	t testing.TB
	net.Listener
}

func newLifelines(t testing.TB) *lifelines {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	relaytest.Check(t, err)
	t.Cleanup(func() { listener.Close() })
	return &lifelines{t, listener}
}

func (l *lifelines) String() string { return l.Addr().String() }

// born waits for a process to connect. The connection, and with it the process,
// ends with the test at the latest.
func (l *lifelines) born() net.Conn {
	l.t.Helper()
	relaytest.Check(l.t, l.Listener.(*net.TCPListener).SetDeadline(time.Now().Add(relaytest.Limit)))
	conn, err := l.Accept()
	relaytest.Check(l.t, err)
	relaytest.Check(l.t, conn.SetDeadline(time.Now().Add(relaytest.Limit)))
	l.t.Cleanup(func() { conn.Close() })
	return conn
}

// wantAlive checks that a process still echoes.
func wantAlive(t testing.TB, conn net.Conn) {
	t.Helper()
	_, err := conn.Write([]byte{1})
	relaytest.Check(t, err)
	_, err = io.ReadFull(conn, make([]byte, 1))
	relaytest.Check(t, err)
}

// wantDead waits for a process to end.
func wantDead(t testing.TB, conn net.Conn) {
	t.Helper()
	_, err := conn.Read(make([]byte, 1))
	if failed, ok := err.(net.Error); err == nil || ok && failed.Timeout() {
		t.Fatal("the process still runs: ", err)
	}
}

// noLeaks fails the test if it leaks goroutines or descriptors. Call it first.
func noLeaks(t testing.TB) {
	t.Helper()
	relaytest.NoLeaks(t)
	before := openDescriptors()
	t.Cleanup(func() {
		if t.Failed() {
			return // the test may have returned before it closed everything
		}
		for deadline := time.Now().Add(relaytest.Limit); openDescriptors() > before; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("%d open descriptors, %d before the test", openDescriptors(), before)
				return
			}
		}
	})
}

// openDescriptors counts the open descriptors of this process. It returns 0 on
// systems without /proc.
func openDescriptors() int {
	list, _ := os.ReadDir("/proc/self/fd")
	return len(list)
}
