package handler

import (
	"fmt"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// rigWithDemoted returns a rig whose first backend was demoted but works, and both
// backends.
func rigWithDemoted(t *testing.T) (r *rig, first, second string) {
	relaytest.NoLeaks(t)
	a, b := serveTCP(t, "127.0.0.1:0", echo), serveTCP(t, "127.0.0.1:0", echo)
	r = newRig(t, []string{a.String(), b.String()})
	r.demote(a.String(), upstream.TCP)
	return r, a.String(), b.String()
}

func TestFailbackAfterRise(t *testing.T) {
	r, first, second := rigWithDemoted(t)
	probe := r.prober(HealthCheck{Networks: onTCP, Rise: 3, Failback: true}, first)
	for range 2 {
		probe()
		r.wantFirst(second)
	}
	r.wantLines("backend recovered", 1, "backend order changed", 0)
	probe()
	r.wantFirst(first)
	if got := fmt.Sprint(r.line("backend order changed").ContextMap()["order"]); got != fmt.Sprint([]string{first, second}) {
		t.Errorf("new order %s", got)
	}
	probe()
	r.wantLines("backend order changed", 1)
}

func TestNoFailbackUnlessConfigured(t *testing.T) {
	r, first, second := rigWithDemoted(t)
	probe := r.prober(HealthCheck{Networks: onTCP, Rise: 1}, first)
	for range 3 {
		probe()
	}
	r.wantFirst(second)
}

// A demotion by clients ends the streak of successful probes, also if a client
// recovers the backend before the next probe.
func TestFailbackCountsFromDemotion(t *testing.T) {
	r, first, second := rigWithDemoted(t)
	probe := r.prober(HealthCheck{Networks: onTCP, Rise: 2, Failback: true}, first)
	for range 5 {
		probe()
	}
	r.wantFirst(first)
	r.demote(first, upstream.TCP)
	walk := r.service.Pool.Probe(r.service.Pool.Backend(first), upstream.TCP, upstream.Listens)
	attempt, _ := walk.Next(time.Now())
	walk.Succeeded(attempt, time.Now())
	probe()
	r.wantFirst(second)
	probe()
	r.wantFirst(first)
}

// A strike between two successes ends the streak, and a probe that needed its
// second attempt does not count as a success.
func TestFailbackNeedsStreak(t *testing.T) {
	relaytest.NoLeaks(t)
	live := serveTCP(t, lo(t, 2)+":0", echo)
	dead := deadTCP(t, hostPort(lo(t, 3), live.String()))
	first, second := hostPort("a.test", dead), "192.0.2.1:80"
	r := newRig(t, []string{first, second})
	r.resolver.set("a.test", addrsAnswer(lo(t, 2)))
	r.demote(first, upstream.TCP)
	probe := r.prober(HealthCheck{Networks: onTCP, Rise: 3, Failback: true}, first)
	probe()
	probe()
	r.resolver.set("a.test", answerUntilRefresh(addrsAnswer(lo(t, 3)), addrsAnswer(lo(t, 2))))
	probe() // succeeds at its second attempt
	r.wantLines("backend failed, first strike", 1)
	r.wantFirst(second)
	r.resolver.set("a.test", addrsAnswer(lo(t, 2)))
	probe()
	probe()
	r.wantFirst(second)
	probe()
	r.wantFirst(first)
}

// Where both networks are probed, both must be healthy.
func TestFailbackNeedsBothNetworks(t *testing.T) {
	relaytest.NoLeaks(t)
	udp := relaytest.NewUDPBackend(t, relaytest.Echo)
	serveTCP(t, hostPort(lo(t, 2), udp.Addr), echo)
	first, second := hostPort("a.test", udp.Addr), "192.0.2.1:80"
	r := newRig(t, []string{first, second})
	r.resolver.set("a.test", addrsAnswer(lo(t, 2), "127.0.0.1"))
	check := HealthCheck{Networks: onBoth, Send: []byte("ping"), Rise: 1, Failback: true}
	r.demote(first, upstream.TCP)
	r.prober(check, first)()
	r.wantFirst(first)

	r.demote(first, upstream.TCP)
	if err := udp.Conn.Close(); err != nil {
		t.Fatal(err)
	}
	probe := r.prober(check, first)
	probe()
	r.wantState(first, upstream.TCP, upstream.Up)
	r.wantState(first, upstream.UDP, upstream.Down)
	probe()
	r.wantFirst(second)
}
