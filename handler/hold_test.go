package handler

import (
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap/zaptest/observer"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
)

// holdingFor returns options that hold clients for d.
func holdingFor(d time.Duration) func(*Options) {
	return func(o *Options) { o.Hold = d }
}

// waitHeld waits until n clients are held.
func waitHeld(t *testing.T, r *rig, n int) {
	t.Helper()
	relaytest.Eventually(t, "held clients", func() bool { return r.service.Held() == n })
}

// Clients that no backend accepts are served as soon as one recovers. Their bytes
// stay unread until then.
func TestHeldClientsAreServedAtRecovery(t *testing.T) {
	relaytest.NoLeaks(t)
	listener, err := net.Listen("tcp", lo(t, 1)+":0")
	relaytest.Check(t, err)
	dead := listener.Addr().String()
	relaytest.Check(t, listener.Close())
	var lines *observer.ObservedLogs
	r := newRig(t, []string{dead}, holdingFor(time.Hour), func(o *Options) { lines = accessLog(o) })
	clients := make([]*net.TCPConn, 50)
	ends := make([]<-chan struct{}, len(clients))
	for i := range clients {
		clients[i], ends[i] = r.client()
		relaytest.Write(t, clients[i], "question")
	}
	waitHeld(t, r, len(clients))
	r.wantLines("client refused", 0, "backend failed, second strike", 1)
	r.line("client held, no backend accepts it")

	serveTCP(t, dead, echo)
	for i, client := range clients {
		relaytest.WantRead(t, client, "question")
		relaytest.Check(t, client.Close())
		relaytest.Receive(t, "the end of a relay", ends[i])
	}
	waitHeld(t, r, 0)
	r.wantLines("client refused", 0, "backend recovered", 1)
	for _, line := range lines.All() {
		if held, _ := line.ContextMap()["held_ms"].(float64); held <= 0 {
			t.Errorf("a line without held_ms: %v", line.ContextMap())
		}
	}
	relaytest.Eventually(t, "the end of the attempts for held clients", func() bool {
		return !strings.Contains(allStacks(), ").recheck")
	})
}

func allStacks() string {
	var b strings.Builder
	for _, stack := range relaytest.GoroutineStacks() {
		b.WriteString(stack)
	}
	return b.String()
}

// A hold that ends without a recovery refuses the client with the last failure.
func TestHoldEnds(t *testing.T) {
	relaytest.NoLeaks(t)
	dead := deadTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{dead}, holdingFor(100*time.Millisecond))
	began := time.Now()
	ann, _ := r.client()
	wantEnding(t, "ann", ann, "RST")
	if took := time.Since(began); took < 100*time.Millisecond {
		t.Errorf("refused after %s", took)
	}
	if got, _ := r.line("client refused").ContextMap()["error"].(string); !strings.Contains(got, "refused") {
		t.Errorf("refused for %q", got)
	}
	r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 1) // attempts for held clients are not counted
}

// A held client that leaves is released.
func TestHeldClientLeaves(t *testing.T) {
	relaytest.NoLeaks(t)
	r := newRig(t, []string{deadTCP(t, "127.0.0.1:0")}, holdingFor(time.Hour))
	ann, done := r.client()
	waitHeld(t, r, 1)
	relaytest.Reset(t, ann)
	relaytest.Receive(t, "the end of the relay", done)
	waitHeld(t, r, 0)
	r.wantLines("client refused", 0)
}

// Held clients are refused when the process exits, and do not use up the time that
// relays have to finish.
func TestHeldClientsAreRefusedAtExit(t *testing.T) {
	relaytest.NoLeaks(t)
	var lines *observer.ObservedLogs
	r := newRig(t, []string{deadTCP(t, "127.0.0.1:0")}, holdingFor(time.Hour), func(o *Options) { lines = accessLog(o) })
	ann, done := r.client()
	waitHeld(t, r, 1)
	r.service.Hold(time.Minute, "test") // the exit ends that, too
	drained := make(chan struct{})
	go func() { // ends with the drain
		defer close(drained)
		r.service.Drain(time.Hour)
	}()
	wantEnding(t, "ann", ann, "RST")
	relaytest.Receive(t, "the end of the relay", done)
	relaytest.Receive(t, "the end of the drain", drained)
	wantAccess(t, lines, map[string]any{"reason": string(stream.Shutdown)})
}

// Held clients count towards max_connections.
func TestHeldClientsCountTowardsTheLimit(t *testing.T) {
	relaytest.NoLeaks(t)
	r := newRig(t, []string{deadTCP(t, "127.0.0.1:0")}, holdingFor(time.Hour), func(o *Options) { o.MaxConnections = 1 })
	r.client()
	waitHeld(t, r, 1)
	bob, _ := r.client()
	wantEnding(t, "bob", bob, "RST")
	r.line("client refused, too many connections")
}

// A backend that accepts connections and fails afterwards is not sent its held
// clients again and again.
func TestHeldClientsOfAFailingBackend(t *testing.T) {
	relaytest.NoLeaks(t)
	var requests atomic.Int32
	failing := serveTCP(t, "127.0.0.1:0", func(conn *net.TCPConn) {
		if n, _ := conn.Read(make([]byte, 100)); n > 0 {
			requests.Add(1)
		}
		_ = conn.SetLinger(0)
		_ = conn.Close()
	})
	r := newRig(t, []string{failing.String()}, rescuing, holdingFor(500*time.Millisecond))
	ann, _ := r.client()
	relaytest.Write(t, ann, "question")
	wantEnding(t, "ann", ann, "RST")
	if got := requests.Load(); got > 10 { // 2, and one after 25, 50, 100, 200 ms
		t.Errorf("%d requests in half a second", got)
	}
}

// While an operator holds a service, its new clients wait and cause no connection.
// They are served at the release.
func TestOperatorHolds(t *testing.T) {
	relaytest.NoLeaks(t)
	live := serveTCP(t, "127.0.0.1:0", greet("live"))
	r := newRig(t, []string{live.String()})
	ann, _ := r.client()
	relaytest.WantRead(t, ann, "live")

	until := r.service.Hold(time.Minute, "10.0.0.7:1")
	if got := r.service.HeldUntil(); !got.Equal(until) || time.Until(got) > time.Minute || time.Until(got) < 50*time.Second {
		t.Errorf("held until %s", got)
	}
	bob, _ := r.client()
	waitHeld(t, r, 1)
	if got := live.count(); got != 1 {
		t.Errorf("%d connections, want ann's alone", got)
	}
	if !r.service.Release("10.0.0.7:2") || r.service.Release("10.0.0.7:3") {
		t.Error("not released once")
	}
	relaytest.WantRead(t, bob, "live")
	entries := r.service.Journal.Entries()
	for i, want := range []string{"hold: new clients wait (for 1m0s), requested by 10.0.0.7:1", "release: new clients are served again, requested by 10.0.0.7:2"} {
		if i >= len(entries) || !strings.HasSuffix(entries[i].String(), want) {
			t.Errorf("journal %v, want %s", entries, want)
		}
	}
}

// An operator's hold ends by itself.
func TestOperatorsHoldEnds(t *testing.T) {
	relaytest.NoLeaks(t)
	live := serveTCP(t, "127.0.0.1:0", greet("live"))
	r := newRig(t, []string{live.String()})
	r.service.Hold(time.Hour, "first")
	r.service.Hold(50*time.Millisecond, "second") // replaces the first
	ann, _ := r.client()
	relaytest.WantRead(t, ann, "live")
	if got := r.service.HeldUntil(); !got.IsZero() {
		t.Errorf("still held until %s", got)
	}
}

// While clients of several ports are held, the ports of all of them are tried: the
// recovery of one is not missed because the client that came last addressed another.
func TestHeldClientsOfSeveralPorts(t *testing.T) {
	relaytest.NoLeaks(t)
	host := lo(t, 1)
	ln, err := net.Listen("tcp", host+":0")
	relaytest.Check(t, err)
	one, other := ln.Addr().String(), deadTCP(t, host+":0")
	relaytest.Check(t, ln.Close())
	r := newRig(t, []string{host + ":0"}, holdingFor(time.Hour)) // 0: the port of each client
	var nears []net.Conn
	for i, port := range []string{one, other} {
		near, far := relaytest.TCPPair(t)
		client := plainClient(far)
		at, err := net.ResolveTCPAddr("tcp", hostPort(host, port))
		relaytest.Check(t, err)
		client.Conn = addressed{far, at}
		r.serve(t.Context(), client)
		waitHeld(t, r, i+1)
		nears = append(nears, near)
	}
	serveTCP(t, hostPort(host, one), greet("recovered"))
	relaytest.WantRead(t, nears[0], "recovered")
}
