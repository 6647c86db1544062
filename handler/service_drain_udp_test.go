package handler

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/async-relay/caddy-relay/internal/stream"
)

// This file tests drains with UDP sessions, with the fake clock of synctest.

// drainResult is the result of a Drain.
type drainResult struct {
	finished, cut int
	took          time.Duration
}

// drainIn starts a drain and returns a channel that receives its result.
func (s *Service) drainIn(timeout time.Duration) <-chan drainResult {
	done := make(chan drainResult, 1)
	go func() {
		began := time.Now()
		finished, cut := s.Drain(timeout)
		done <- drainResult{finished, cut, time.Since(began)}
	}()
	return done
}

// wants checks a result. A drain may take quietCheck longer than wanted, because
// it looks for quiet sessions at that interval.
func (d drainResult) wants(t *testing.T, finished, cut int, took time.Duration) {
	t.Helper()
	synctest.Wait() // a session leaves the table before its end is complete
	if d.finished != finished || d.cut != cut || d.took < took || d.took > took+quietCheck {
		t.Errorf("%d finished, %d cut after %v; want %d, %d, %v", d.finished, d.cut, d.took, finished, cut, took)
	}
}

// reasons returns the reasons of the relays that ended, in alphabetical order.
func (r *rig) reasons() []string {
	var list []string
	for _, line := range r.lines("relay ended") {
		list = append(list, line.ContextMap()["reason"].(string))
	}
	slices.Sort(list)
	return list
}

// wantReasons compares the reasons of the relays that ended. want is in
// alphabetical order.
func (r *rig) wantReasons(want ...stream.Reason) {
	r.t.Helper()
	var texts []string
	for _, w := range want {
		texts = append(texts, string(w))
	}
	if got := r.reasons(); !slices.Equal(got, texts) {
		r.t.Errorf("relays ended for %q, want %q:\n%s", got, texts, r.transcript())
	}
}

// At the timeout of Finish, an answer that is on its way still reaches its client.
func TestFinishAwaitsAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"}, func(o *Options) { o.IdleTimeout, o.ConnectTimeout = time.Hour, time.Hour })
		answered, unanswered := new(udpClient), new(udpClient)
		r.deliver(1, answered, "a")
		r.deliver(2, unanswered, "b")
		const timeout = time.Second
		done := make(chan drainResult, 1)
		go func() {
			began := time.Now()
			finished, cut := r.service.Finish(timeout)
			done <- drainResult{finished, cut, time.Since(began)}
		}()
		time.Sleep(timeout + 3*answerCheck)
		r.engine.socket(1).answer("A")
		answered.wants(t, "A")
		(<-done).wants(t, 0, 2, timeout+answerChecks*answerCheck)
		answered.wantReleased(t, 1)
		unanswered.wantReleased(t, 1)
		r.wantSessions(0)
	})
}

func TestDrainUDP(t *testing.T) {
	const timeout = 10 * time.Second
	bubble := func(name string, f func(t *testing.T, r *udpRig)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newUDPRig(t, []string{"192.0.2.1:53", "a.example:53"}, func(o *Options) { o.IdleTimeout, o.ConnectTimeout = time.Hour, time.Hour })
				f(t, r)
				r.wantSessions(0)
				if open, _ := r.engine.sockets(); open != 0 {
					t.Errorf("%d sockets open", open)
				}
			})
		})
	}
	bubble("no sessions: returns at once", func(t *testing.T, r *udpRig) {
		(<-r.service.drainIn(timeout)).wants(t, 0, 0, 0)
		late := new(udpClient)
		r.deliver(1, late, "a")
		late.wantReleased(t, 1)
	})
	bubble("an answered session ends after a second of quiet", func(t *testing.T, r *udpRig) {
		client := new(udpClient)
		r.deliver(1, client, "a")
		r.engine.socket(1).answer("A")
		(<-r.service.drainIn(timeout)).wants(t, 1, 0, quietFor)
		client.wantReleased(t, 1)
		r.wantReasons(stream.Shutdown)
	})
	bubble("quiet before the drain counts", func(t *testing.T, r *udpRig) {
		r.deliver(1, new(udpClient), "a")
		r.engine.socket(1).answer("A")
		time.Sleep(time.Minute)
		(<-r.service.drainIn(timeout)).wants(t, 1, 0, 0)
	})
	bubble("a datagram in either direction ends the quiet", func(t *testing.T, r *udpRig) {
		client := new(udpClient)
		r.deliver(1, client, "a")
		r.engine.socket(1).answer("A")
		done := r.service.drainIn(timeout)
		for range 4 {
			time.Sleep(900 * time.Millisecond)
			r.engine.socket(1).answer("more")
			time.Sleep(900 * time.Millisecond)
			r.deliver(1, client, "b")
			r.engine.socket(1).answer("B")
		}
		(<-done).wants(t, 1, 0, 8*900*time.Millisecond+quietFor)
	})
	bubble("a session that waits for an answer gets the timeout", func(t *testing.T, r *udpRig) {
		answered, unanswered := new(udpClient), new(udpClient)
		r.deliver(1, answered, "a")
		r.deliver(2, unanswered, "b")
		done := r.service.drainIn(timeout)
		time.Sleep(4 * time.Second)
		r.wantSessions(2)
		r.engine.socket(1).answer("A")
		answered.wants(t, "A")
		time.Sleep(4 * time.Second)
		r.wantSessions(1)
		(<-done).wants(t, 1, 1, timeout)
		unanswered.wantReleased(t, 1)
		r.wantReasons(stream.Shutdown, stream.Shutdown)
	})
	bubble("a searching session gets the timeout, then its search ends", func(t *testing.T, r *udpRig) {
		r.resolver.set("a.example", hangAnswer) // until the session ends, or for an hour
		r.engine.onOpen = failToOpen
		client := new(udpClient)
		r.deliver(1, client, "a")
		synctest.Wait()
		if r.session(1).phase != searching {
			t.Fatal("the session does not search")
		}
		began := time.Now()
		(<-r.service.drainIn(timeout)).wants(t, 0, 1, timeout)
		client.wantReleased(t, 1)
		if len(r.resolver.callsFor("a.example")) == 0 || time.Since(began) > timeout {
			t.Error("the name was not looked up, or the search outlived the drain")
		}
	})
	bubble("a refused session is finished", func(t *testing.T, r *udpRig) {
		r.engine.onOpen = failToOpen
		r.deliver(1, new(udpClient), "a")
		synctest.Wait()
		if r.session(1).phase != refused {
			t.Fatal("the session was not refused")
		}
		(<-r.service.drainIn(timeout)).wants(t, 1, 0, quietFor)
	})
	bubble("new clients are refused, sessions continue", func(t *testing.T, r *udpRig) {
		old, late := new(udpClient), new(udpClient)
		r.deliver(1, old, "a")
		done := r.service.drainIn(timeout)
		synctest.Wait()
		r.deliver(2, late, "a")
		late.wantReleased(t, 1)
		r.wantSessions(1)
		r.deliver(1, old, "b")
		r.engine.socket(1).answer("B")
		old.wants(t, "B")
		(<-done).wants(t, 1, 0, quietFor)
		r.deliver(1, old, "c")
		r.wantSessions(0)
	})
	bubble("timeout 0 cuts at once", func(t *testing.T, r *udpRig) {
		r.deliver(1, new(udpClient), "a")
		r.deliver(2, new(udpClient), "b")
		(<-r.service.drainIn(0)).wants(t, 0, 2, 0)
		r.wantReasons(stream.Shutdown, stream.Shutdown)
	})
	bubble("two drains: the first timeout to expire cuts", func(t *testing.T, r *udpRig) {
		r.deliver(1, new(udpClient), "a")
		long := r.service.drainIn(timeout)
		time.Sleep(time.Second)
		(<-r.service.drainIn(2 * time.Second)).wants(t, 0, 1, 2*time.Second)
		if got := <-long; got.took != 3*time.Second {
			t.Errorf("the longer drain took %v", got.took)
		}
		(<-r.service.drainIn(timeout)).wants(t, 0, 0, 0)
	})
}
