package handler

import (
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap/zaptest/observer"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// rescuing returns options that keep the first bytes of clients.
func rescuing(o *Options) { o.Rescue = 16 << 10 }

// resetAfterReading is a backend that dies under each request.
func resetAfterReading(conn *net.TCPConn) {
	_, _ = conn.Read(make([]byte, 100))
	_ = conn.SetLinger(0)
	_ = conn.Close()
}

// A backend that resets each request gets its two strikes from one client, which
// the next backend then serves: the client sees nothing of it.
func TestRescuePastABackendThatResets(t *testing.T) {
	relaytest.NoLeaks(t)
	var requests atomic.Int32
	dying := serveTCP(t, "127.0.0.1:0", func(conn *net.TCPConn) {
		requests.Add(1)
		resetAfterReading(conn)
	})
	live := serveTCP(t, "127.0.0.1:0", echo)
	var lines *observer.ObservedLogs
	r := newRig(t, []string{dying.String(), live.String()}, rescuing, func(o *Options) { lines = accessLog(o) })
	ann, done := r.client()
	relaytest.Write(t, ann, "question")
	relaytest.WantRead(t, ann, "question")
	r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 1, "backend order changed", 1, "connected", 1)
	if s := r.status(dying.String(), upstream.TCP); s.State != upstream.Down {
		t.Errorf("the dying backend is %s", s.State)
	}
	if got := requests.Load(); got != 2 {
		t.Errorf("the dying backend had %d requests, want 2", got)
	}
	if got := r.service.Stats(time.Now()).Rescues; got != 1 {
		t.Errorf("%d rescues, want 1", got)
	}
	relaytest.Check(t, ann.Close())
	relaytest.Receive(t, "the end of the relay", done)
	attempts := wantAccess(t, lines, map[string]any{"backend": live.String(), "bytes_up": int64(8), "bytes_down": int64(8)})
	wantAttempts(t, attempts, true, dying.String(), dying.String(), live.String())
	if text, _ := attempts[0]["error"].(string); !strings.Contains(text, stream.ErrResetTooEarly.Error()) {
		t.Errorf("the first attempt failed with %q", text)
	}
}

// A server that speaks first is covered, too: one that closes before its greeting
// has failed.
func TestRescueOfServerFirstProtocols(t *testing.T) {
	relaytest.NoLeaks(t)
	closing := serveTCP(t, "127.0.0.1:0", func(conn *net.TCPConn) { _ = conn.Close() })
	live := serveTCP(t, "127.0.0.1:0", greet("live"))
	r := newRig(t, []string{closing.String(), live.String()}, rescuing)
	ann, _ := r.client()
	relaytest.WantRead(t, ann, "live")
	r.wantLines("backend failed, second strike", 1)
}

// A backend that accepts and hangs fails after first_byte_timeout.
func TestRescuePastABackendThatHangs(t *testing.T) {
	relaytest.NoLeaks(t)
	hanging := serveTCP(t, "127.0.0.1:0", func(conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn) })
	live := serveTCP(t, "127.0.0.1:0", echo)
	r := newRig(t, []string{hanging.String(), live.String()}, rescuing, func(o *Options) { o.FirstByte = 50 * time.Millisecond })
	ann, _ := r.client()
	relaytest.Write(t, ann, "question")
	relaytest.WantRead(t, ann, "question")
	r.wantLines("backend failed, second strike", 1)
	if s := r.status(hanging.String(), upstream.TCP); s.State != upstream.Down {
		t.Errorf("the hanging backend is %s", s.State)
	}
}

// Without kept bytes, each client of a hanging backend causes one strike and is
// reset.
func TestFirstByteTimeoutWithoutRescue(t *testing.T) {
	relaytest.NoLeaks(t)
	hanging := serveTCP(t, "127.0.0.1:0", func(conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn) })
	live := serveTCP(t, "127.0.0.1:0", greet("live"))
	var lines *observer.ObservedLogs
	r := newRig(t, []string{hanging.String(), live.String()}, func(o *Options) {
		lines, o.FirstByte = accessLog(o), 50*time.Millisecond
	})
	for n := range 2 {
		ann, done := r.client()
		relaytest.Write(t, ann, "question")
		wantEnding(t, "ann", ann, "RST")
		relaytest.Receive(t, "the end of the relay", done)
		wantAttempts(t, wantAccess(t, lines, map[string]any{"reason": string(stream.NoFirstByte)}), false, hanging.String())
		r.wantLines("backend failed, first strike", 1, "backend failed, second strike", n, "client refused", 0)
	}
	bob, _ := r.client() // says nothing first, so that no limit applies to the live backend
	relaytest.WantRead(t, bob, "live")
}

// If all backends fail the trial, the client is refused.
func TestRescueEndsWithARefusal(t *testing.T) {
	relaytest.NoLeaks(t)
	first, second := serveTCP(t, "127.0.0.1:0", resetAfterReading), serveTCP(t, "127.0.0.1:0", resetAfterReading)
	r := newRig(t, []string{first.String(), second.String()}, rescuing)
	ann, _ := r.client()
	relaytest.Write(t, ann, "question")
	wantEnding(t, "ann", ann, "RST")
	r.line("client refused")
	r.wantLines("client refused", 1, "backend failed, second strike", 2)
}

// A client that leaves during a trial is no failure of the backend.
func TestClientLeavesDuringATrial(t *testing.T) {
	relaytest.NoLeaks(t)
	server, conns := acceptTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{server.String()}, rescuing)
	ann, done := r.client()
	relaytest.Write(t, ann, "question")
	conn := relaytest.Receive(t, "a connection", conns)
	relaytest.WantRead(t, conn, "question")
	relaytest.Reset(t, ann)
	relaytest.Receive(t, "the end of the relay", done)
	wantEnding(t, "the backend", conn, "RST")
	r.wantLines("backend failed, first strike", 0, "client refused", 0)
}

// A cut ends a client that is in a trial.
func TestCutDuringATrial(t *testing.T) {
	relaytest.NoLeaks(t)
	server, conns := acceptTCP(t, "127.0.0.1:0")
	var lines *observer.ObservedLogs
	r := newRig(t, []string{server.String()}, rescuing, func(o *Options) { lines = accessLog(o) })
	ann, done := r.client()
	relaytest.Write(t, ann, "question")
	conn := relaytest.Receive(t, "a connection", conns)
	relaytest.WantRead(t, conn, "question")
	r.service.Cut()
	wantEnding(t, "ann", ann, "RST")
	wantEnding(t, "the backend", conn, "RST")
	relaytest.Receive(t, "the end of the relay", done)
	wantAccess(t, lines, map[string]any{"reason": string(stream.Removed)})
	r.wantLines("backend failed, first strike", 0)
}

// A companion that connects first must answer, too. Its failure leaves the slow
// attempt.
func TestHedgedConnectionFailsItsTrial(t *testing.T) {
	relaytest.NoLeaks(t)
	slow, dying := newSilentTCP(t, "127.0.0.1:0"), serveTCP(t, "127.0.0.1:0", resetAfterReading)
	r := newRig(t, []string{slow.String(), dying.String()}, rescuing, hedging)
	ann, _ := r.client()
	relaytest.Write(t, ann, "question")
	r.line("backend failed, second strike")
	slow.wake(echo)
	relaytest.WantRead(t, ann, "question")
}
