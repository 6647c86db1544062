package handler

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A panic ends the session that caused it, with one ERROR line that has the
// stack. Other sessions continue, and no lock stays locked.
func TestUDPPanic(t *testing.T) {
	// cause makes the call named where panic for session 1.
	for where, cause := range map[string]func(r *udpRig){
		"Replier.Reply": func(r *udpRig) {
			r.deliver(1, &udpClient{onReply: func([]byte) { panic("Reply panics") }}, "a")
			r.engine.socket(r.engine.opened).answer("A")
		},
		"Replier.Release": func(r *udpRig) {
			r.deliver(1, &udpClient{onRelease: func() { panic("Release panics") }}, "a")
			r.session(1).end(evictedForRoom)
		},
		"Resolver.Lookup": func(r *udpRig) {
			r.resolver.set("a.example", panicAnswer)
			r.deliver(1, new(udpClient), "a")
		},
		"Engine.Open": func(r *udpRig) {
			r.engine.onOpen = func(netip.AddrPort) error { panic("Open panics") }
			r.deliver(1, new(udpClient), "a")
		},
		"Engine.Open after an eviction": func(r *udpRig) {
			r.deliver(2, new(udpClient), "evicted")
			calls := 0
			r.engine.onOpen = func(netip.AddrPort) error {
				if calls++; calls == 1 {
					return errNoFile
				}
				panic("Open panics")
			}
			r.deliver(1, new(udpClient), "a")
		},
		"Socket.Send": func(r *udpRig) {
			r.engine.onSend = func(*fakeSocket, []byte) error { panic("Send panics") }
			r.deliver(1, new(udpClient), "a")
		},
		"Socket.Close": func(r *udpRig) {
			r.deliver(1, new(udpClient), "a")
			r.engine.onClose = func() { panic("Close panics") }
			r.session(1).end(evictedForRoom)
		},
		"Socket.Send, called by a timer": func(r *udpRig) {
			first := r.engine.opened + 1
			r.engine.onSend = func(s *fakeSocket, _ []byte) error {
				if s.number > first {
					panic("Send panics")
				}
				return nil
			}
			r.deliver(1, new(udpClient), "a")
			time.Sleep(time.Second)
		},
		"Socket.Send, called after a demotion": func(r *udpRig) {
			r.deliver(1, new(udpClient), "a")
			r.engine.onSend = func(*fakeSocket, []byte) error { panic("Send panics") }
			r.demote("a.example:53", 1)
			r.service.sessions.leaveDemoted(r.service.Pool.Backend("a.example:53"))
		},
	} {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newUDPRig(t, []string{"a.example:53", "192.0.2.2:53"}, func(o *Options) { o.UDPReplyTimeout = time.Second })
				r.resolver.setCached("a.example", "192.0.2.1")
				bystander := new(udpClient)
				r.deliver(0, bystander, "hello")
				r.engine.socket(1).answer("HELLO")

				cause(r)
				synctest.Wait()
				line := r.line("relay ended by a panic")
				if stack, _ := line.ContextMap()["stack"].(string); !strings.Contains(stack, "session_panic_test.go") && !strings.Contains(stack, "panicAnswer") {
					t.Errorf("the stack does not contain the test:\n%s", stack)
				}
				if got := line.ContextMap()["client"]; got != udpKey(1).Client.String() {
					t.Errorf("client %v", got)
				}
				if r.session(1) != nil {
					t.Error("the session has not ended")
				}

				r.engine.onOpen, r.engine.onSend, r.engine.onClose = nil, nil, nil
				r.resolver.setCached("a.example", "192.0.2.1")
				r.deliver(0, bystander, "still there?")
				r.engine.socket(1).answer("YES")
				bystander.wants(t, "HELLO", "YES")
				again := new(udpClient)
				r.deliver(1, again, "b") // the same client gets a new session
				r.engine.socket(r.engine.opened).answer("B")
				again.wants(t, "B")
				r.service.Close()
				again.wantReleased(t, 1)
				if open, _ := r.engine.sockets(); open != 0 {
					t.Errorf("%d sockets left open", open)
				}
			})
		})
	}
}
