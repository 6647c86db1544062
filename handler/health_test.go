package handler

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// Strikes are shared: a client's strike and a probe's make two, and a failure of
// an attempt that began before them is not a strike.
func TestHealthStrikesAreShared(t *testing.T) {
	relaytest.NoLeaks(t)
	dead := deadTCP(t, "127.0.0.1:0")
	backend := hostPort("a.test", dead)
	r := newRig(t, []string{backend, "192.0.2.1:80"})
	r.resolver.set("a.test", addrsAnswer("127.0.0.1"))
	pool := r.service.Pool
	ann, bob := pool.Walk(upstream.TCP), pool.Walk(upstream.TCP)
	hers, _ := ann.Next(time.Now())
	his, _ := bob.Next(time.Now())
	ann.Failed(hers, time.Now(), errRefused)

	r.prober(HealthCheck{Networks: onTCP}, backend)()
	r.wantLines("backend failed, first strike", 0, "backend failed, second strike", 1)
	if calls := r.resolver.callsFor("a.test"); len(calls) != 1 || calls[0].method != "lookup" {
		t.Errorf("resolver calls %+v, want one lookup", calls)
	}
	if verdict, change := bob.Failed(his, time.Now(), errRefused); verdict != upstream.Next || change.Strike != 0 {
		t.Errorf("the other client's failure returns %v, %+v", verdict, change)
	}
}

// The first attempt of a probe looks up through the cache, the second one with a
// new query. The patience with both is a quarter of the check's own timeout.
func TestHealthLookups(t *testing.T) {
	relaytest.NoLeaks(t)
	live := serveTCP(t, lo(t, 2)+":0", echo)
	dead := deadTCP(t, hostPort(lo(t, 3), live.String()))
	backend := hostPort("a.test", dead)
	r := newRig(t, []string{backend})
	r.resolver.set("a.test", answerUntilRefresh(addrsAnswer(lo(t, 3)), addrsAnswer(lo(t, 2))))
	r.prober(HealthCheck{Networks: onTCP, Timeout: 2 * time.Second}, backend)()
	calls := r.resolver.callsFor("a.test")
	if len(calls) != 2 || calls[0].method != "lookup" || calls[1].method != "refresh" {
		t.Fatalf("resolver calls %+v, want a lookup and a refresh", calls)
	}
	if calls[0].patience != time.Second/2 || calls[1].patience != time.Second/2 {
		t.Errorf("patience %v and %v, want a quarter of the timeout", calls[0].patience, calls[1].patience)
	}
	r.wantState(backend, upstream.TCP, upstream.Up)
	r.wantLines("backend failed, first strike", 1, "backend failed, second strike", 0)
}

// A backend that accepts and hangs is condemned by checks, although clients connect
// to it all the time. Then it is down until a check passes.
func TestHealthHungBackend(t *testing.T) {
	relaytest.NoLeaks(t)
	var hung atomic.Bool
	hung.Store(true)
	server := serveTCP(t, "127.0.0.1:0", func(conn *net.TCPConn) {
		buf := make([]byte, 4)
		for {
			if _, err := io.ReadFull(conn, buf); err != nil {
				return
			}
			if !hung.Load() {
				_, _ = io.WriteString(conn, "PONG")
			}
		}
	})
	first, second := server.String(), serveTCP(t, "127.0.0.1:0", echo).String()
	r := newRig(t, []string{first, second})
	connect := func() {
		walk := r.service.Pool.Walk(upstream.TCP)
		a := walk.Resume(r.service.Pool.Backend(first), time.Now())
		r.relay.recordSuccess(&walk, outcome{attempt: a}, upstream.TCP, healthCheckSource{}, time.Now(), false)
	}
	connecting, stop := make(chan struct{}), make(chan struct{})
	go func() { // ends with stop
		defer close(connecting)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				connect()
			}
		}
	}()
	ping := HealthCheck{Networks: onTCP, Send: []byte("PING"), Expect: [][]byte{[]byte("PONG")}, Timeout: 100 * time.Millisecond}
	r.prober(ping, first)()
	close(stop)
	<-connecting
	r.wantState(first, upstream.TCP, upstream.Down)
	if s := r.status(first, upstream.TCP); s.Failed != 2 || !s.ByCheck {
		t.Errorf("%+v, want 2 failures and down by check", s)
	}
	r.wantFirst(second)
	for _, message := range []string{"backend failed, first strike", "backend failed, second strike"} {
		if got := r.line(message).ContextMap()["ends_by"]; got != "health check" {
			t.Errorf("%s: ends by %v", message, got)
		}
	}

	connect()
	r.prober(HealthCheck{Networks: onTCP}, first)() // connects and asks nothing
	r.wantState(first, upstream.TCP, upstream.Down)
	r.wantLines("backend recovered", 0)
	hung.Store(false)
	ping.Timeout = relaytest.Limit
	r.prober(ping, first)()
	r.wantState(first, upstream.TCP, upstream.Up)
	r.wantLines("backend recovered", 1)
}

// Down, cooling and drained backends are probed. Further failures of a down
// backend are not strikes, and its first success ends down and cooldown.
func TestHealthDownCoolingAndDrained(t *testing.T) {
	relaytest.NoLeaks(t)
	live := serveTCP(t, lo(t, 2)+":0", echo)
	dead := deadTCP(t, hostPort(lo(t, 3), live.String()))
	backend := hostPort("a.test", dead)
	r := newRig(t, []string{backend, "192.0.2.1:80"})
	r.service.Pool.Update(backendAddresses(t, backend, "192.0.2.1:80"), time.Hour)
	r.resolver.set("a.test", addrsAnswer(lo(t, 3)))
	probe := r.prober(HealthCheck{Networks: onTCP}, backend)
	r.demote(backend, upstream.TCP)
	r.demote(backend, upstream.UDP)

	probe()
	r.wantState(backend, upstream.TCP, upstream.Cooling)
	r.wantLines("backend failed, first strike", 0, "attempt failed", 1)
	r.resolver.set("a.test", addrsAnswer(lo(t, 2)))
	probe()
	r.wantState(backend, upstream.TCP, upstream.Up)
	r.wantState(backend, upstream.UDP, upstream.Cooling) // which is not probed
	if line := r.line("backend recovered"); line.ContextMap()["client"] != "health check" {
		t.Errorf("%v", line.ContextMap())
	}

	r.drainAll()
	before := r.status(backend, upstream.TCP).Succeeded
	probe()
	if s := r.status(backend, upstream.TCP); s.State != upstream.Draining || s.Succeeded != before+1 {
		t.Errorf("drained and probed: %+v", s)
	}
}

// A local failure of a probe does not count as a strike.
func TestHealthLocalFailure(t *testing.T) {
	relaytest.NoLeaks(t)
	r := newRig(t, []string{"255.255.255.255:80"})
	r.prober(HealthCheck{Networks: onTCP}, "255.255.255.255:80")()
	r.wantLines("attempt not counted", 1, "backend failed, first strike", 0)
}

// A demotion by a probe moves the UDP sessions that wait for the backend.
func TestHealthMovesSessions(t *testing.T) {
	r := newUDPRig(t, []string{deadAddr, "192.0.2.2:53"})
	r.deliver(1, new(udpClient), "a")
	r.engine.wants(t, "1 open "+deadAddr, "1 < a")
	r.prober(HealthCheck{Networks: onUDP, Send: []byte("ping")}, deadAddr)()
	r.engine.wants(t, "1 close", "2 open 192.0.2.2:53", "2 < a")
}

// A panic of the resolver ends the probe with a log line; the next probe is made.
func TestHealthPanics(t *testing.T) {
	relaytest.NoLeaks(t)
	live := serveTCP(t, "127.0.0.1:0", echo)
	backend := hostPort("a.test", live.String())
	r := newRig(t, []string{backend})
	r.resolver.set("a.test", panicAnswer)
	probe := r.prober(HealthCheck{Networks: onTCP}, backend)
	probe()
	if line := r.line("health check panicked"); line.Entry.Level != zapcore.ErrorLevel || line.ContextMap()["backend"] != backend {
		t.Errorf("%s %v", line.Entry.Level, line.ContextMap())
	}
	r.resolver.set("a.test", addrsAnswer("127.0.0.1"))
	probe()
	r.wantLines("connected", 1, "health check panicked", 1)
}

// Four silent backends are demoted in the time of one.
func TestHealthIsParallel(t *testing.T) {
	const interval, timeout = 10 * time.Second, 10 * time.Second
	synctest.Test(t, func(t *testing.T) {
		var backends []string
		for i := range 4 {
			backends = append(backends, fmt.Sprintf("h%d.test:80", i))
		}
		r := newRig(t, backends)
		for i := range backends {
			r.resolver.set(fmt.Sprintf("h%d.test", i), hangAnswer)
		}
		end := r.checkHealth(HealthCheck{Interval: interval, Timeout: timeout, Networks: onTCP})
		time.Sleep(interval + 2*timeout)
		synctest.Wait()
		for _, backend := range backends {
			r.wantState(backend, upstream.TCP, upstream.Down)
		}
		r.wantLines("backend failed, first strike", 4, "backend failed, second strike", 4)
		end()
	})
}

// The end of the check ends active probes, which are not strikes then.
func TestHealthEndsWithItsContext(t *testing.T) {
	relaytest.NoLeaks(t)
	silent := newSilentTCP(t, "127.0.0.1:0")
	mute, conns := acceptTCP(t, "127.0.0.1:0")
	r := newRig(t, []string{silent.String(), mute.String()})
	end := r.checkHealth(HealthCheck{Interval: time.Millisecond, Timeout: time.Hour, Networks: onTCP, Send: []byte("ping")})
	waitForSYN(t, silent.String())
	conn := relaytest.Receive(t, "a probe", conns)
	relaytest.WantRead(t, conn, "ping")
	end()
	for _, backend := range []string{silent.String(), mute.String()} {
		if s := r.status(backend, upstream.TCP); s.Failed != 0 {
			t.Errorf("%+v", s)
		}
	}
}

// Without Send UDP is not probed.
func TestHealthUDPNeedsSend(t *testing.T) {
	r := newRig(t, []string{deadAddr})
	r.relay.CheckHealth(context.Background(), HealthCheck{Interval: time.Millisecond, Timeout: relaytest.Limit, Networks: onUDP, Failback: true}) // returns
	live := serveTCP(t, "127.0.0.1:0", echo)
	r = newRig(t, []string{live.String()})
	r.prober(HealthCheck{Networks: onBoth}, live.String())()
	r.wantLines("connected", 1, "backend failed, first strike", 0)
}

// Without any client, a dead backend is demoted, a recovered one returns to its
// position, and one that a reload adds is probed.
func TestHealthWithoutClients(t *testing.T) {
	relaytest.NoLeaks(t)
	first := newSilentTCP(t, "127.0.0.1:0")
	second := serveTCP(t, "127.0.0.1:0", echo)
	r := newRig(t, []string{first.String(), second.String()})
	end := r.checkHealth(HealthCheck{Interval: 10 * time.Millisecond, Timeout: 50 * time.Millisecond, Rise: 2, Failback: true, Networks: onTCP})
	relaytest.Eventually(t, "the demotion of the dead backend", func() bool { return r.service.Pool.Order()[0] == second.String() })
	first.wake(echo)
	relaytest.Eventually(t, "the failback", func() bool { return r.service.Pool.Order()[0] == first.String() })

	third := serveTCP(t, "127.0.0.1:0", echo)
	r.service.Pool.Update(backendAddresses(t, first.String(), third.String()), 0)
	relaytest.Eventually(t, "a probe of the added backend", func() bool { return third.count() > 0 })
	end()
}
