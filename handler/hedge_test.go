package handler

import (
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest/observer"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// hedging returns options with a short hedge. The connect timeout is longer than a
// test may take.
func hedging(o *Options) { o.Hedge, o.ConnectTimeout = 20*time.Millisecond, time.Hour }

// The companion of a silent attempt serves the client. The access log has both
// attempts.
func TestCompanionServesPastASilentBackend(t *testing.T) {
	relaytest.NoLeaks(t)
	silent, live := newSilentTCP(t, "127.0.0.1:0"), serveTCP(t, "127.0.0.1:0", greet("live"))
	var lines *observer.ObservedLogs
	r := newRig(t, []string{silent.String(), live.String()}, hedging, func(o *Options) { lines = accessLog(o) })
	ann, done := r.client()
	relaytest.WantRead(t, ann, "live")
	relaytest.Check(t, ann.Close())
	relaytest.Receive(t, "the end of the relay", done)
	attempts := wantAccess(t, lines, map[string]any{"backend": live.String()})
	if len(attempts) != 2 {
		t.Fatalf("attempts: %v", attempts)
	}
	if first := attempts[0]; first["backend"] != silent.String() || first["error"] != errOvertaken.Error() || first["hedged"] != nil {
		t.Errorf("the overtaken attempt: %v", first)
	}
	if second := attempts[1]; second["backend"] != live.String() || second["error"] != nil || second["hedged"] != true {
		t.Errorf("the hedged attempt: %v", second)
	}
	if got := r.service.Stats(time.Now()).Hedges; got != 1 {
		t.Errorf("%d hedges, want 1", got)
	}
	r.wantLines("backend failed, first strike", 0)
}

// A silent backend gets its two strikes on its own time, although one client has
// come and was served by another backend.
func TestOvertakenBackendIsDemoted(t *testing.T) {
	relaytest.NoLeaks(t)
	silent, live := newSilentTCP(t, "127.0.0.1:0"), serveTCP(t, "127.0.0.1:0", greet("live"))
	r := newRig(t, []string{silent.String(), live.String()}, hedging, func(o *Options) { o.ConnectTimeout = 100 * time.Millisecond })
	ann, _ := r.client()
	relaytest.WantRead(t, ann, "live")
	r.line("backend order changed")
	r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 1)
	if s := r.status(silent.String(), upstream.TCP); s.State != upstream.Down {
		t.Errorf("the silent backend is %s", s.State)
	}
}

// One of many overtaken attempts is continued, and its failures are the strikes.
func TestOneJudgePerBackend(t *testing.T) {
	relaytest.NoLeaks(t)
	silent, live := newSilentTCP(t, "127.0.0.1:0"), serveTCP(t, "127.0.0.1:0", greet("live"))
	r := newRig(t, []string{silent.String(), live.String()}, hedging)
	for range 20 {
		ann, _ := r.client()
		relaytest.WantRead(t, ann, "live")
	}
	relaytest.Eventually(t, "the end of all attempts but one", func() bool {
		return dialling() == 1
	})
	r.service.Close() // ends the judge: NoLeaks looks for it
}

// An overtaken attempt that connects is a success of its backend. Its connection
// is closed without a byte.
func TestOvertakenAttemptConnects(t *testing.T) {
	relaytest.NoLeaks(t)
	slow, live := newSilentTCP(t, "127.0.0.1:0"), serveTCP(t, "127.0.0.1:0", greet("live"))
	r := newRig(t, []string{slow.String(), live.String()}, hedging)
	ann, _ := r.client()
	relaytest.WantRead(t, ann, "live")
	strike(r, slow.String())
	endings := make(chan string, 1)
	slow.wake(func(conn *net.TCPConn) { endings <- ending(conn) })
	if got := relaytest.Receive(t, "the end of the overtaken connection", endings); got != "FIN" {
		t.Errorf("the overtaken connection ended with %s", got)
	}
	relaytest.Eventually(t, "the end of the strike", func() bool { return r.status(slow.String(), upstream.TCP).State == upstream.Up })
	r.wantLines("backend order changed", 0)
}

// If the slow attempt connects first, it serves, and its companion causes nothing.
func TestSlowAttemptOvertakesItsCompanion(t *testing.T) {
	relaytest.NoLeaks(t)
	slow, silent := newSilentTCP(t, "127.0.0.1:0"), newSilentTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{slow.String(), silent.String()}, hedging)
	ann, _ := r.client()
	waitForSYN(t, silent.String())
	slow.wake(greet("slow"))
	relaytest.WantRead(t, ann, "slow")
	relaytest.Eventually(t, "the end of the companion", func() bool {
		return dialling() == 0
	})
	r.wantLines("backend failed, first strike", 0)
}

// A client has one companion at a time. It waits for the companion alone once the
// first backend is exhausted, and then gets another companion.
func TestOneCompanionAtATime(t *testing.T) {
	relaytest.NoLeaks(t)
	first, second, third := newSilentTCP(t, "127.0.0.1:0"), newSilentTCP(t, "127.0.0.1:0"), newSilentTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{first.String(), second.String(), third.String()}, hedging)
	ann, _ := r.client()
	waitForSYN(t, second.String())
	time.Sleep(5 * r.relay.opts.Hedge) // time for a companion that must not start
	if got := r.service.Stats(time.Now()).Hedges; got != 1 {
		t.Fatalf("%d companions, want 1", got)
	}
	r.demote(first.String(), upstream.TCP)
	waitForSYN(t, third.String())
	third.wake(greet("third"))
	relaytest.WantRead(t, ann, "third")
	r.wantLines("client refused", 0)
}

// A companion that fails gets strikes, as any attempt does, and the next backend
// is dialled after another hedge.
func TestCompanionFails(t *testing.T) {
	relaytest.NoLeaks(t)
	silent, live := newSilentTCP(t, "127.0.0.1:0"), serveTCP(t, "127.0.0.1:0", greet("live"))
	dead := deadTCP(t, lo(t, 1)+":0")
	r := newRig(t, []string{silent.String(), dead, live.String()}, hedging)
	ann, _ := r.client()
	relaytest.WantRead(t, ann, "live")
	r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 1)
	if s := r.status(dead, upstream.TCP); s.State != upstream.Down {
		t.Errorf("the refusing backend is %s", s.State)
	}
	if got := r.service.Stats(time.Now()).Hedges; got != 2 {
		t.Errorf("%d companions, want 2", got)
	}
}

// A client whose backends are all exhausted is refused, though it had a companion.
func TestHedgedClientIsRefused(t *testing.T) {
	relaytest.NoLeaks(t)
	first, second := newSilentTCP(t, "127.0.0.1:0"), newSilentTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{first.String(), second.String()}, hedging, func(o *Options) { o.ConnectTimeout = 100 * time.Millisecond })
	ann, _ := r.client()
	wantEnding(t, "ann", ann, "RST")
	r.line("client refused")
	r.wantLines("client refused", 1, "backend failed, second strike", 2)
}

// A client that leaves ends both attempts.
func TestHedgedClientLeaves(t *testing.T) {
	relaytest.NoLeaks(t)
	first, second := newSilentTCP(t, "127.0.0.1:0"), newSilentTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{first.String(), second.String()}, hedging)
	ann, done := r.client()
	waitForSYN(t, second.String())
	relaytest.Check(t, ann.SetLinger(0))
	relaytest.Check(t, ann.Close())
	relaytest.Receive(t, "the end of the relay", done)
	r.wantLines("backend failed, first strike", 0)
}

// dialling returns the number of attempts that are running.
func dialling() (count int) {
	for _, stack := range relaytest.GoroutineStacks() {
		if strings.Contains(stack, "(*attempts).attempt(") {
			count++
		}
	}
	return count
}

// strike gives a backend a first strike.
func strike(r *rig, backend string) {
	walk := r.service.Pool.Walk(upstream.TCP)
	a, _ := walk.Next(time.Now())
	if a.Backend.Text != backend {
		panic("not the first backend: " + backend)
	}
	walk.Failed(a, time.Now(), errRefused)
}
