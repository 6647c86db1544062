package handler

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zaptest/observer"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// A demotion ends the relays of the backend if on_down is cut, and leaves them
// otherwise. Relays of other backends continue.
func TestDemotionCuts(t *testing.T) {
	for _, cut := range []bool{true, false} {
		relaytest.NoLeaks(t)
		first, second := serveTCP(t, "127.0.0.1:0", echo), serveTCP(t, "127.0.0.1:0", echo)
		var lines *observer.ObservedLogs
		r := newRig(t, []string{first.String(), second.String()}, func(o *Options) { lines, o.CutDown = accessLog(o), cut })
		ann, done := r.client()
		relaytest.Write(t, ann, "one")
		relaytest.WantRead(t, ann, "one")
		relaytest.Check(t, first.listener.Close()) // the next connection is refused
		bob, _ := r.client()
		relaytest.Write(t, bob, "two")
		relaytest.WantRead(t, bob, "two")
		r.line("backend failed, second strike")
		if !cut {
			relaytest.Write(t, ann, "three")
			relaytest.WantRead(t, ann, "three")
			continue
		}
		wantEnding(t, "ann", ann, "RST")
		relaytest.Receive(t, "the end of ann's relay", done)
		wantAccess(t, lines, map[string]any{"reason": string(backendDown), "backend": first.String()})
		if left := r.line("clients taken away from backend").ContextMap(); left["tcp"] != int64(1) || left["backend"] != first.String() {
			t.Errorf("left: %v", left)
		}
		relaytest.Write(t, bob, "three")
		relaytest.WantRead(t, bob, "three")
		entries := r.service.Journal.Entries()
		if last := entries[len(entries)-1].String(); !strings.HasSuffix(last, "cut: clients left "+first.String()+" (backend_down: 1 TCP relays ended, 0 UDP sessions move)") {
			t.Errorf("the last entry is %q", last)
		}
	}
}

// With on_down cut, a demotion moves the UDP sessions of the backend with their
// next datagram, also those that do not wait for an answer.
func TestDemotionMovesSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"}, func(o *Options) { o.CutDown = true })
		served := new(udpClient)
		r.deliver(1, served, "a")
		r.engine.socket(1).answer("A")
		r.deliver(2, new(udpClient), "b")
		r.engine.socket(2).sink.Failed(errRefused)
		r.engine.socket(3).sink.Failed(errRefused) // the second strike
		synctest.Wait()
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "2 open 192.0.2.1:53", "2 < b", "2 close", "3 open 192.0.2.1:53", "3 < b", "3 close", "4 open 192.0.2.2:53", "4 < b")
		r.engine.socket(1).answer("late") // the session has not moved yet
		r.deliver(1, served, "c", "d")
		r.engine.wants(t, "1 close", "5 open 192.0.2.2:53", "5 < c", "5 < d")
		r.engine.socket(5).answer("C")
		served.wants(t, "A", "late", "C")
	})
}

// A session that waits for an answer takes its unanswered datagrams along. One
// without another backend stays.
func TestSessionLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"})
		backends := r.service.Pool.Undrained()
		r.deliver(1, new(udpClient), "a")
		r.service.leaveBackend(backends[0], upstream.UDP, backendDown)
		r.deliver(1, new(udpClient), "b") // the first backend is still the first to try
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 < b")

		relaytest.Check(t, drain(r.rig, backends[0]))
		r.service.leaveBackend(backends[0], upstream.UDP, backendDrain)
		r.deliver(1, new(udpClient), "c")
		r.engine.wants(t, "1 close", "2 open 192.0.2.2:53", "2 < a", "2 < b", "2 < c")
	})
}

func drain(r *rig, b *upstream.Backend) error {
	_, err := r.service.SetDrained(b, true, "test")
	return err
}

// After a failback, the clients of the backends behind the recovered one leave.
func TestFailbackMoves(t *testing.T) {
	relaytest.NoLeaks(t)
	servers := []*tcpServer{serveTCP(t, "127.0.0.1:0", echo), serveTCP(t, "127.0.0.1:0", echo), serveTCP(t, "127.0.0.1:0", echo)}
	var texts []string
	for _, s := range servers {
		texts = append(texts, s.String())
	}
	r := newRig(t, texts)
	clients := make(map[string]func(end string))
	for _, text := range texts { // a client on each backend
		ann, _ := r.client()
		relaytest.Write(t, ann, "one")
		relaytest.WantRead(t, ann, "one")
		clients[text] = func(end string) {
			t.Helper()
			if end != "" {
				wantEnding(t, "a client of "+text, ann, end)
				return
			}
			relaytest.Write(t, ann, "two")
			relaytest.WantRead(t, ann, "two")
		}
		if text != texts[2] {
			relaytest.Check(t, drain(r, r.service.Pool.Backend(text)))
		}
	}
	for _, text := range texts[:2] {
		_, err := r.service.SetDrained(r.service.Pool.Backend(text), false, "test")
		relaytest.Check(t, err)
	}
	r.relay.leaveBehind(r.service.Pool.Backend(texts[1]))
	clients[texts[0]]("")
	clients[texts[1]]("")
	clients[texts[2]]("RST")
}

// The time limit of a drain ends the relays that are left. Resuming the backend
// ends the limit.
func TestDrainLimit(t *testing.T) {
	relaytest.NoLeaks(t)
	first, second := serveTCP(t, "127.0.0.1:0", echo), serveTCP(t, "127.0.0.1:0", echo)
	r := newRig(t, []string{first.String(), second.String()})
	ann, _ := r.client()
	relaytest.Write(t, ann, "one")
	relaytest.WantRead(t, ann, "one")
	b := r.service.Pool.Backend(first.String())
	relaytest.Check(t, drain(r, b))
	r.service.LimitDrain(b, time.Hour, nil)
	_, err := r.service.SetDrained(b, false, "test")
	relaytest.Check(t, err)
	if len(r.service.drains.timers) != 0 {
		t.Error("the limit outlives the drain")
	}
	relaytest.Check(t, drain(r, b))
	cut := make(chan int, 1)
	r.service.LimitDrain(b, time.Hour, nil)
	r.service.LimitDrain(b, 20*time.Millisecond, func(tcp, _ int) { cut <- tcp })
	wantEnding(t, "ann", ann, "RST")
	if got := relaytest.Receive(t, "the end of the limit", cut); got != 1 {
		t.Errorf("%d relays were cut", got)
	}
	r.service.LimitDrain(b, time.Hour, nil)
	r.service.Close()
	if len(r.service.drains.timers) != 0 {
		t.Error("the limit outlives the service")
	}
}
