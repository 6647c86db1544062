package handler

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
)

func TestUDPIdle(t *testing.T) {
	const idle = 10 * time.Second
	bubble := func(name string, f func(t *testing.T, r *udpRig)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f(t, newUDPRig(t, []string{"192.0.2.1:53"}, func(o *Options) { o.IdleTimeout = idle }))
			})
		})
	}
	// endsAfter checks that the session ends after d and no earlier.
	endsAfter := func(t *testing.T, r *udpRig, d time.Duration) {
		t.Helper()
		time.Sleep(d - time.Nanosecond)
		synctest.Wait()
		r.wantSessions(1)
		time.Sleep(d/20 + time.Nanosecond)
		synctest.Wait()
		r.wantSessions(0)
		r.wantLines("relay ended", 1)
		if why := r.line("relay ended").ContextMap()["reason"]; why != string(stream.IdleTimeout) {
			t.Fatalf("reason %v", why)
		}
	}
	bubble("a session without an answer", func(t *testing.T, r *udpRig) {
		client := new(udpClient)
		r.deliver(1, client, "a")
		endsAfter(t, r, idle)
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "1 close")
		client.wantReleased(t, 1)
		time.Sleep(3 * idle)
		r.wantLines("relay ended", 1)
	})
	bubble("a session with an answer", func(t *testing.T, r *udpRig) {
		r.deliver(1, new(udpClient), "a")
		r.engine.socket(1).answer("A")
		endsAfter(t, r, idle)
	})
	bubble("datagrams from the backend keep it alive", func(t *testing.T, r *udpRig) {
		r.deliver(1, new(udpClient), "subscribe")
		for range 10 {
			time.Sleep(idle - time.Second)
			r.engine.socket(1).answer("push")
		}
		endsAfter(t, r, idle)
	})
	bubble("datagrams from the client keep it alive", func(t *testing.T, r *udpRig) {
		for range 10 {
			r.deliver(1, new(udpClient), "log line")
			time.Sleep(idle - time.Second)
		}
		endsAfter(t, r, time.Second)
	})
	bubble("a late sweep leaves time to receive what arrived", func(t *testing.T, r *udpRig) {
		r.deliver(1, new(udpClient), "a")
		r.deliver(2, new(udpClient), "b")
		used := r.session(1)
		table := r.service.sessions
		time.Sleep(idle - time.Millisecond)
		table.mu.Lock()
		table.due -= lateTimer
		table.mu.Unlock()
		time.Sleep(time.Millisecond + catchUp/2)
		synctest.Wait()
		r.wantSessions(2)
		used.touch()
		time.Sleep(catchUp / 2)
		synctest.Wait()
		r.wantSessions(1)
		time.Sleep(idle - catchUp/2)
		synctest.Wait()
		r.wantSessions(0)
	})
	bubble("sessions end in the order of their last use", func(t *testing.T, r *udpRig) {
		var mu sync.Mutex
		var ended []int
		const n = 100
		for i := range n {
			client := &udpClient{onRelease: func() { mu.Lock(); ended = append(ended, i); mu.Unlock() }}
			r.deliver(i, client, "a")
			time.Sleep(time.Millisecond)
		}
		var want []int
		for i := 1; i < n; i += 2 {
			want = append(want, i)
		}
		for i := n - 2; i >= 0; i -= 2 { // used again in reverse order, by an answer or by the client
			if i%4 == 0 {
				r.engine.socket(i + 1).answer("A")
			} else {
				r.session(i).touch()
			}
			time.Sleep(time.Millisecond)
			want = append(want, i)
		}
		time.Sleep(idle)
		synctest.Wait()
		r.wantSessions(0)
		if !slices.Equal(ended, want) {
			t.Fatalf("ended in the order %v, want %v", ended, want)
		}
	})
	bubble("a datagram at the moment of expiry is sent, by this session or the next one", func(t *testing.T, r *udpRig) {
		for i := range 50 {
			r.deliver(i, new(udpClient), "a")
		}
		time.Sleep(idle) // the sweep and the deliveries run concurrently now
		for i := range 50 {
			r.deliver(i, new(udpClient), fmt.Sprint(i))
		}
		synctest.Wait()
		r.wantSessions(50)
		sent := make(map[string]int)
		for _, line := range r.engine.lines {
			var socket int
			var datagram string
			if n, _ := fmt.Sscanf(line, "%d < %s", &socket, &datagram); n == 2 {
				sent[datagram]++
			}
		}
		for i := range 50 {
			if sent[fmt.Sprint(i)] != 1 {
				t.Fatalf("datagram %d was sent %d times", i, sent[fmt.Sprint(i)])
			}
		}
	})
	bubble("a session that is used during the sweep keeps its order", func(t *testing.T, r *udpRig) {
		r.deliver(1, new(udpClient), "a")
		time.Sleep(time.Second)
		table, s := r.service.sessions, r.session(1)
		s.used.Add(-int64(idle)) // due now
		s.queue.repairFirst()
		table.takeIdle()
		s.touch() // just after takeIdle
		if s.endIfIdle() {
			t.Fatal("the session ended although it is not idle")
		}
		table.putBack(s)
		endsAfter(t, r, idle)
	})
	bubble("the timer stops after the last session", func(t *testing.T, r *udpRig) {
		r.deliver(1, new(udpClient), "a")
		r.deliver(2, new(udpClient), "b")
		table := r.service.sessions
		r.session(1).end(responsesReached)
		if table.due == 0 {
			t.Fatal("no timer for the other session")
		}
		r.session(2).end(responsesReached)
		if table.due != 0 || table.timer.Stop() {
			t.Fatal("the timer still runs")
		}
		r.deliver(3, new(udpClient), "c")
		endsIn := time.Now().Add(idle)
		time.Sleep(idle)
		synctest.Wait()
		r.wantSessions(0)
		if time.Now().After(endsIn) || table.due != 0 || table.timer.Stop() {
			t.Fatal("the timer still runs after the sweep")
		}
	})
}

// Datagrams in both directions, with an idle timeout so short that it expires all
// the time. No datagram is lost, and each session ends once.
func TestUDPIdleRace(t *testing.T) {
	relaytest.NoLeaks(t)
	const clients, datagrams = 8, 3000
	r := newUDPRig(t, []string{"192.0.2.1:53"}, func(o *Options) { o.IdleTimeout = 50 * time.Microsecond })
	r.engine.quiet = true
	var sent atomic.Int64
	r.engine.onSend = func(s *fakeSocket, d []byte) error {
		if sent.Add(1)%3 == 0 {
			go s.answer("answer")
		}
		return nil
	}
	var released atomic.Int64
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			client := &udpClient{onRelease: func() { released.Add(1) }}
			for n := range datagrams {
				r.deliver(i, client, "a")
				if n%10 == 0 {
					time.Sleep(50 * time.Microsecond) // gives the sweep time to run
				}
			}
		})
	}
	wg.Wait()
	if got := sent.Load(); got != clients*datagrams {
		t.Fatalf("%d datagrams reached a backend, want %d", got, clients*datagrams)
	}
	relaytest.Eventually(t, "the end of all sessions", func() bool { _, n := r.service.Active(); return n == 0 })
	relaytest.Eventually(t, "all sockets to be closed", func() bool { open, _ := r.engine.sockets(); return open == 0 })
	relaytest.Eventually(t, "a release for each session", func() bool { return released.Load() == int64(r.engine.opened) })
}
