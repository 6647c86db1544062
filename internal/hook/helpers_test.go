package hook

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// limit bounds every wait of a test. It is no expectation: a test that needs
// it has failed.
const limit = 30 * time.Second

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// receive takes one value of a channel, or the news that it is closed.
func receive[T any](t testing.TB, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(limit):
		t.Fatalf("waited in vain: %s", what)
		panic("unreachable")
	}
}

// rig runs commands and sees what is logged of them.
type rig struct {
	t    testing.TB
	log  *zap.Logger
	logs *observer.ObservedLogs
}

func newRig(t testing.TB) *rig {
	noLeaks(t)
	return newSharedRig(t)
}

// newSharedRig is for parallel tests: their parent looks for leaks.
func newSharedRig(t testing.TB) *rig {
	core, logs := observer.New(zapcore.DebugLevel)
	return &rig{t: t, log: zap.New(core), logs: logs}
}

// config has this program run as a child.
func (r *rig) config(args ...string) Config {
	return Config{Command: self(r.t), Args: append([]string{"child"}, args...), Timeout: limit, Log: r.log}
}

// run runs a child to its end.
func (r *rig) run(e Event, args ...string) {
	execute(r.t.Context(), job{r.config(args...), e})
}

// self is the path of this program.
func self(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	check(t, err)
	return path
}

// line is the one log line of a message.
func (r *rig) line(message string) observer.LoggedEntry {
	r.t.Helper()
	lines := r.logs.FilterMessage(message).All()
	if len(lines) != 1 {
		r.t.Fatalf("%d lines %q, want one:\n%s", len(lines), message, r.transcript())
	}
	return lines[0]
}

// wantLine checks the one line of a message: its level, and fields in pairs.
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

// transcript is the whole log, to be read by whoever mends a failed test.
func (r *rig) transcript() string {
	var b strings.Builder
	for _, e := range r.logs.All() {
		fmt.Fprintf(&b, "%s %s %v\n", e.Level, e.Message, e.ContextMap())
	}
	return b.String()
}

// started is a command that runs beside the test, which says when it is cut.
type started struct {
	cut  context.CancelCauseFunc
	over chan struct{}
}

func (r *rig) start(args ...string) started {
	ctx, cut := context.WithCancelCause(context.Background())
	s := started{cut, make(chan struct{})}
	go func() { // ends with the command, which ends with the test
		defer close(s.over)
		run(ctx, job{r.config(args...), failedEvent})
	}()
	r.t.Cleanup(func() {
		s.cut(errClosed)
		<-s.over
	})
	return s
}

var failedEvent = Event{Type: BackendFailed, Service: "test"}

// lifelines are where processes show that they live.
type lifelines struct {
	t testing.TB
	net.Listener
}

func newLifelines(t testing.TB) *lifelines {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { listener.Close() })
	return &lifelines{t, listener}
}

func (l *lifelines) String() string { return l.Addr().String() }

// born waits for a process. It ends with the test if not before.
func (l *lifelines) born() net.Conn {
	l.t.Helper()
	check(l.t, l.Listener.(*net.TCPListener).SetDeadline(time.Now().Add(limit)))
	conn, err := l.Accept()
	check(l.t, err)
	check(l.t, conn.SetDeadline(time.Now().Add(limit)))
	l.t.Cleanup(func() { conn.Close() })
	return conn
}

// wantAlive asks a process.
func wantAlive(t testing.TB, conn net.Conn) {
	t.Helper()
	_, err := conn.Write([]byte{1})
	check(t, err)
	_, err = io.ReadFull(conn, make([]byte, 1))
	check(t, err)
}

// wantDead waits for the end of a process.
func wantDead(t testing.TB, conn net.Conn) {
	t.Helper()
	_, err := conn.Read(make([]byte, 1))
	if failed, ok := err.(net.Error); err == nil || ok && failed.Timeout() {
		t.Fatal("a process lives on: ", err)
	}
}

// noLeaks is called first in a test: whatever goroutine began during the test
// must be over at its end, and whatever descriptor was opened closed.
func noLeaks(t testing.TB) {
	t.Helper()
	before, open := goroutines(), descriptors()
	t.Cleanup(func() {
		if t.Failed() {
			return // a test cut short leaves things behind
		}
		var left []string
		for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
			left = left[:0]
			for id, stack := range goroutines() {
				if _, old := before[id]; !old {
					left = append(left, stack)
				}
			}
			still := descriptors()
			if len(left) == 0 && still <= open {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("%d descriptors before and %d after, %d goroutines left:\n%s", open, still, len(left), strings.Join(left, "\n\n"))
				return
			}
		}
	})
}

// descriptors are how many this process has open; 0 where nobody says.
func descriptors() int {
	list, _ := os.ReadDir("/proc/self/fd")
	return len(list)
}

// goroutines are the stacks of all goroutines by their ids.
func goroutines() map[string]string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	stacks := make(map[string]string)
	for _, stack := range bytes.Split(buf, []byte("\n\n")) {
		id, _, _ := strings.Cut(string(stack), " [")
		stacks[id] = string(stack)
	}
	return stacks
}
