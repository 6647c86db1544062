package handler

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/async-relay/caddy-relay/internal/dial"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// After a failure the client tries the same backend again at once, with a new
// lookup, and then the next backend.
func TestRetryThenNextBackend(t *testing.T) {
	relaytest.NoLeaks(t)
	dead := deadTCP(t, "127.0.0.1:0")
	live := serveTCP(t, "127.0.0.1:0", greet("live"))
	a := hostPort("a.test", dead)
	r := newRig(t, []string{a, live.String()})
	r.resolver.set("a.test", addrsAnswer("127.0.0.1"))

	ann, _ := r.client()
	relaytest.WantRead(t, ann, "live")

	calls := r.resolver.callsFor("a.test")
	if len(calls) != 2 || calls[0].method != "lookup" || calls[1].method != "refresh" {
		t.Fatalf("resolver calls %+v, want a lookup and a refresh", calls)
	}
	if since := calls[1].since; since.Before(calls[0].at) || since.After(calls[1].at) {
		t.Errorf("refresh of answers older than %v; the lookup was at %v and the refresh at %v", since, calls[0].at, calls[1].at)
	}
	if want := r.relay.patience(); calls[0].patience != want || calls[1].patience != want {
		t.Errorf("patience %v and %v, want %v", calls[0].patience, calls[1].patience, want)
	}
	first, second := r.line("backend failed, first strike"), r.line("backend failed, second strike")
	wantAttemptLine(t, first.Entry.Level, zapcore.WarnLevel, first.ContextMap(), a, "127.0.0.1", dead, 1)
	wantAttemptLine(t, second.Entry.Level, zapcore.WarnLevel, second.ContextMap(), a, "127.0.0.1", dead, 2)
	order := r.line("backend order changed")
	if got := fmt.Sprint(order.ContextMap()["order"]); got != fmt.Sprint([]string{live.String(), a}) {
		t.Errorf("new order %s", got)
	}

	// The second client goes directly to the second backend.
	bob, _ := r.client()
	relaytest.WantRead(t, bob, "live")
	if again := r.resolver.callsFor("a.test"); len(again) != len(calls) {
		t.Error("the second client was sent to the dead backend")
	}
	r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 1, "attempt failed", 0)
}

func wantAttemptLine(t *testing.T, level, wantLevel zapcore.Level, fields map[string]any, backend, ip, samePort string, attempt int64) {
	t.Helper()
	if level != wantLevel {
		t.Errorf("level %s, want %s", level, wantLevel)
	}
	for name, want := range map[string]any{
		"service": "test", "network": "tcp", "backend": backend, "address": hostPort(ip, samePort), "attempt": attempt,
	} {
		if fields[name] != want {
			t.Errorf("%s is %v, want %v", name, fields[name], want)
		}
	}
	if _, ok := fields["duration"].(time.Duration); !ok {
		t.Errorf("duration is %v", fields["duration"])
	}
	if _, err := netip.ParseAddrPort(fmt.Sprint(fields["client"])); err != nil {
		t.Errorf("client: %v", err)
	}
	if _, ok := fields["error"].(string); !ok && wantLevel == zapcore.WarnLevel {
		t.Errorf("error is %v", fields["error"])
	}
}

// If the address of the only backend has changed, the client that finds the old
// address dead is served from the new one.
func TestChangedAddressServesTheSameClient(t *testing.T) {
	relaytest.NoLeaks(t)
	live := serveTCP(t, lo(t, 2)+":0", greet("moved"))
	dead := deadTCP(t, hostPort(lo(t, 3), live.String()))
	r := newRig(t, []string{hostPort("a.test", dead)})
	r.resolver.set("a.test", answerUntilRefresh(addrsAnswer(lo(t, 3)), addrsAnswer(lo(t, 2))))

	ann, _ := r.client()
	relaytest.WantRead(t, ann, "moved")
	r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 0)
	if s := r.status(hostPort("a.test", dead), upstream.TCP); s.State != upstream.Up {
		t.Errorf("the backend is %s", s.State)
	}
}

// Every backend is tried before a client is refused.
func TestAllBackendsTriedBeforeRefusal(t *testing.T) {
	relaytest.NoLeaks(t)
	dead := deadTCP(t, "127.0.0.1:0")
	ours := "255.255.255.255:80"
	r := newRig(t, []string{dead, hostPort("missing.test", dead), ours, "[::1]" + dead[len("127.0.0.1"):]})
	r.resolver.set("missing.test", errorAnswer(errNoSuchHost))
	deadTCP(t, "[::1]"+dead[len("127.0.0.1"):])

	ann, done := r.client()
	wantEnding(t, "the refused client", ann, "RST")
	relaytest.Receive(t, "the end of the relay", done)
	line := r.line("client refused")
	if line.Entry.Level != zapcore.ErrorLevel || line.ContextMap()["client"] != ann.LocalAddr().String() || line.ContextMap()["error"] == nil {
		t.Errorf("refused with %s %v", line.Entry.Level, line.ContextMap())
	}
	r.wantLines("backend failed, first strike", 3, "backend failed, second strike", 3, "attempt not counted", 1, "all backends unavailable", 0)
	if s := r.status(ours, upstream.TCP); s.State != upstream.Up || s.Failed != 0 {
		t.Errorf("after a local failure the backend is %+v", s)
	}
}

// While the only backend is down, each client makes one attempt and is refused
// without strikes, until the addresses change.
func TestDownBackend(t *testing.T) {
	relaytest.NoLeaks(t)
	live := serveTCP(t, lo(t, 2)+":0", greet("moved"))
	dead := deadTCP(t, hostPort(lo(t, 3), live.String()))
	r := newRig(t, []string{hostPort("a.test", dead)})
	r.resolver.set("a.test", addrsAnswer(lo(t, 3)))

	ann, _ := r.client()
	wantEnding(t, "ann", ann, "RST")
	r.line("all backends unavailable")
	r.logs.TakeAll()

	bob, done := r.client()
	wantEnding(t, "bob", bob, "RST")
	relaytest.Receive(t, "bob's end", done)
	r.wantLines("attempt failed", 1, "attempt not counted", 1, "backend failed, first strike", 0, "backend failed, second strike", 0, "all backends unavailable", 0)
	if calls := r.resolver.callsFor("a.test"); len(calls) != 4 || calls[3].method != "refresh" {
		t.Errorf("resolver calls %+v, want a lookup and a refresh for each client", calls)
	}
	if line := r.line("attempt not counted"); line.ContextMap()["error"] != errUnchanged.Error() {
		t.Errorf("not counted: %v", line.ContextMap())
	}

	r.resolver.set("a.test", answerUntilRefresh(addrsAnswer(lo(t, 3)), addrsAnswer(lo(t, 2))))
	cid, _ := r.client()
	relaytest.WantRead(t, cid, "moved")
	recovered := r.line("backend recovered")
	wantAttemptLine(t, recovered.Entry.Level, zapcore.InfoLevel, recovered.ContextMap(), hostPort("a.test", dead), lo(t, 2), dead, 2)
	if _, ok := recovered.ContextMap()["down_for"].(time.Duration); !ok {
		t.Errorf("recovered: %v", recovered.ContextMap())
	}
}

// A hundred clients that hit one dead backend together cause two strikes, and
// all are served by the next backend.
func TestHundredClientsCauseTwoStrikes(t *testing.T) {
	relaytest.NoLeaks(t)
	dead := deadTCP(t, "127.0.0.1:0")
	live := serveTCP(t, "127.0.0.1:0", greet("live"))
	r := newRig(t, []string{hostPort("a.test", dead), live.String()})
	var all sync.WaitGroup
	all.Add(100)
	r.resolver.set("a.test", func(_ context.Context, call resolverCall) ([]netip.Addr, error) {
		if call.method == "lookup" { // all clients wait here before the first one fails
			all.Done()
			all.Wait()
		}
		return addrsOf("127.0.0.1"), nil
	})
	for range 100 {
		client, _ := r.client()
		defer relaytest.WantRead(t, client, "live")
	}
	all.Wait()
	relaytest.Eventually(t, "all connections", func() bool { return len(r.lines("connected")) == 100 })
	r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 1, "backend order changed", 1, "client refused", 0)
}

// A client that waits for a silent backend tries the next one when other
// clients' failures demote it. Its own timeout is longer than the test may take.
func TestDemotionMovesWaitingClients(t *testing.T) {
	relaytest.NoLeaks(t)
	silent := newSilentTCP(t, "127.0.0.1:0")
	next, conns := acceptTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{silent.String(), next.String()}, func(o *Options) { o.ConnectTimeout = time.Hour })
	ann, _ := r.client()
	waitForSYN(t, silent.String())

	r.demote(silent.String(), upstream.TCP)
	conn := relaytest.Receive(t, "a connection at the next backend", conns)
	relaytest.Write(t, conn, "next")
	relaytest.WantRead(t, ann, "next")
	r.wantLines("backend failed, first strike", 0, "backend failed, second strike", 0)
}

// After a demotion the old dial still serves the client if it connects.
func TestOldDialMayStillWin(t *testing.T) {
	relaytest.NoLeaks(t)
	first, second := newSilentTCP(t, "127.0.0.1:0"), newSilentTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{first.String(), second.String()}, func(o *Options) { o.ConnectTimeout = time.Hour })
	ann, _ := r.client()
	waitForSYN(t, first.String())
	r.demote(first.String(), upstream.TCP)
	waitForSYN(t, second.String())
	r.demote(second.String(), upstream.TCP) // now only old dials are left

	first.wake(greet("late"))
	relaytest.WantRead(t, ann, "late")
	r.wantLines("backend recovered", 1, "client refused", 0)
	if s := r.status(first.String(), upstream.TCP); s.State != upstream.Up {
		t.Errorf("the late winner is %s", s.State)
	}
}

// A connection made after its client was served or has left is closed.
func TestLateWinnerIsClosed(t *testing.T) {
	relaytest.NoLeaks(t)
	server, conns := acceptTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{server.String()})
	search := r.relay.newAttempts(t.Context(), &tcpRelay{}, r.service.Pool.Walk(upstream.TCP))
	defer search.cancel(nil)
	search.next()
	conn := relaytest.Receive(t, "a connection", conns)
	relaytest.Eventually(t, "an outcome without a receiver", func() bool {
		for _, stack := range relaytest.GoroutineStacks() {
			top, _, _ := strings.Cut(stack, "(*attempts).start")
			if len(top) < len(stack) && strings.Contains(top, "[select") && strings.Count(top, "\n") == 1 {
				return true
			}
		}
		return false
	})
	search.cancel(nil)
	wantEnding(t, "the backend", conn, "FIN")
}

// A hanging resolver takes the connect timeout of its backend, not more.
func TestHangingLookupTakesTheConnectTimeout(t *testing.T) {
	relaytest.NoLeaks(t)
	live := serveTCP(t, "127.0.0.1:0", greet("live"))
	a := hostPort("a.test", live.String())
	r := newRig(t, []string{a, live.String()}, func(o *Options) { o.ConnectTimeout = soon })
	r.resolver.set("a.test", hangAnswer)
	ann, _ := r.client()
	relaytest.WantRead(t, ann, "live")
	second := r.line("backend failed, second strike").ContextMap()
	if second["error"] != errConnectTimeout.Error() || second["address"] != nil {
		t.Errorf("failed with %v", second)
	}
}

// The end of ServeTCP's context ends the search for a backend, not the relay
// after it.
func TestContextEndsOnlyTheSearch(t *testing.T) {
	relaytest.NoLeaks(t)
	silent := newSilentTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{silent.String()})
	ctx, cancel := context.WithCancelCause(context.Background())
	near, far := relaytest.TCPPair(t)
	done := r.serve(ctx, plainClient(far))
	waitForSYN(t, silent.String())
	cancel(errors.New("enough"))
	wantEnding(t, "the client", near, "RST")
	relaytest.Receive(t, "the end of the relay", done)
	if got := r.line("client refused").ContextMap()["error"]; got != "enough" {
		t.Errorf("refused for %v", got)
	}

	live := serveTCP(t, "127.0.0.1:0", echo)
	r = newRig(t, []string{live.String()})
	ctx, cancel = context.WithCancelCause(context.Background())
	near, far = relaytest.TCPPair(t)
	r.serve(ctx, plainClient(far))
	relaytest.Write(t, near, "one")
	relaytest.WantRead(t, near, "one")
	cancel(nil)
	relaytest.Write(t, near, "two")
	relaytest.WantRead(t, near, "two")
}

// Drained backends get no new clients.
func TestNoBackendTakesNewClients(t *testing.T) {
	relaytest.NoLeaks(t)
	live := serveTCP(t, "127.0.0.1:0", greet("live"))
	r := newRig(t, []string{live.String()})
	r.drainAll()
	ann, _ := r.client()
	wantEnding(t, "ann", ann, "RST")
	if got := r.line("client refused").ContextMap()["error"]; got != errNoBackend.Error() {
		t.Errorf("refused for %v", got)
	}
}

// A slow connection stays on the event loop until the first of: connect_timeout, the
// hedged attempt, the next address.
func TestParallel(t *testing.T) {
	const second, ms = time.Second, time.Millisecond
	for _, test := range []struct {
		timeout, hedge time.Duration
		addrs          int
		lookup         time.Duration // before the first dial
		want           time.Duration // after the begin of the attempt
	}{
		{2 * second, 0, 1, 0, 2 * second},
		{2 * second, 300 * ms, 1, 0, 300 * ms},
		{100 * ms, 300 * ms, 1, 0, 100 * ms},
		{2 * second, 0, 2, 0, dial.Stagger},
		{2 * second, 300 * ms, 2, 100 * ms, 300 * ms},
		{2 * second, 0, 2, 100 * ms, 100*ms + dial.Stagger},
		{300 * ms, 0, 2, 0, 100 * ms},
		{300 * ms, 0, 5, 0, 50 * ms},
	} {
		began := time.Now()
		a := &startedAttempt{attempt: upstream.Attempt{Began: began}, addrs: make([]netip.Addr, test.addrs), since: began.Add(test.lookup)}
		if got := a.parallel(&Options{ConnectTimeout: test.timeout, Hedge: test.hedge}).Sub(began); got != test.want {
			t.Errorf("%+v: after %v", test, got)
		}
	}
}
