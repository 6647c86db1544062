package handler

import (
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

var (
	errNoPort   = os.NewSyscallError("connect", syscall.EAGAIN)
	errNoFile   = os.NewSyscallError("socket", syscall.EMFILE)
	errNoMemory = os.NewSyscallError("write", syscall.ENOBUFS)
	errTooBig   = os.NewSyscallError("write", syscall.EMSGSIZE)
)

func TestUDPExhausted(t *testing.T) {
	// openAtMost makes the engine fail with err once n sockets are open.
	openAtMost := func(r *udpRig, n int, err error) {
		r.engine.onOpen = func(netip.AddrPort) error {
			if open, _ := r.engine.sockets(); open >= n {
				return err
			}
			return nil
		}
	}
	for name, err := range map[string]error{"port": errNoPort, "descriptor": errNoFile} {
		t.Run("no free "+name+": the longest-idle session is evicted", func(t *testing.T) {
			r := newUDPRig(t, []string{"192.0.2.1:53"})
			openAtMost(r, 3, err)
			clients := make([]udpClient, 4)
			for i := range clients {
				r.deliver(i, &clients[i], "a")
			}
			r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a", "2 open 192.0.2.1:53", "2 < a", "3 open 192.0.2.1:53", "3 < a",
				"open 192.0.2.1:53: "+err.Error(), "1 close", "4 open 192.0.2.1:53", "4 < a")
			r.wantSessions(3)
			clients[0].wantReleased(t, 1)
			r.wantStrikes("192.0.2.1:53", 0, upstream.Up)
			r.wantLines("out of descriptors, memory or ports", 1, "session evicted", 1)
		})
	}
	t.Run("at most three sessions are evicted for one attempt", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"})
		for i := range 6 {
			r.deliver(i, new(udpClient), "a")
		}
		r.engine.lines = nil
		openAtMost(r, 0, errNoFile)
		r.deliver(6, new(udpClient), "b")
		no := "open 192.0.2.1:53: " + errNoFile.Error()
		r.engine.wants(t, no, "1 close", no, "2 close", no, "3 close", no)
		r.wantSessions(4)
		r.wantStrikes("192.0.2.1:53", 0, upstream.Up)
		r.wantLines("client refused", 1)
		if got := r.session(6).phase; got != refused {
			t.Fatalf("phase %d, want refused", got)
		}
	})
	t.Run("a session without a socket is not evicted", func(t *testing.T) {
		r := newUDPRig(t, []string{"a.example:53"}, func(o *Options) { o.ConnectTimeout = relaytest.Limit })
		r.resolver.set("a.example", hangAnswer)
		r.deliver(1, new(udpClient), "a") // waits for a lookup; is the longest-idle session from now on
		relaytest.Eventually(t, "the lookup", func() bool { return len(r.resolver.callsFor("a.example")) > 0 })
		r.resolver.setCached("a.example", "192.0.2.1")
		r.deliver(2, new(udpClient), "b")
		r.engine.socket(1).answer("B")
		r.deliver(3, new(udpClient), "c")
		r.deliver(4, new(udpClient), "d")
		r.deliver(3, new(udpClient), "c")
		r.engine.lines = nil
		openAtMost(r, 3, errNoPort)
		no := "open 192.0.2.1:53: " + errNoPort.Error()
		r.deliver(5, new(udpClient), "e") // evicts the longest-idle of the two that have no answer
		r.engine.wants(t, no, "3 close", "4 open 192.0.2.1:53", "4 < e")
		for n, want := range []int{2, 4, 1} { // then the other one, and last the one with an answer
			r.deliver(6+n, new(udpClient), "f")
			r.engine.wants(t, no, fmt.Sprint(want, " close"), fmt.Sprint(5+n, " open 192.0.2.1:53"), fmt.Sprint(5+n, " < f"))
			if n == 1 { // the new sessions get an answer, later than the first one
				for i := range 2 {
					r.engine.socket(5 + i).answer("F")
				}
			}
		}
		if r.session(1) == nil {
			t.Error("the session without a socket was evicted")
		}
	})
	t.Run("without another session the client is refused", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		openAtMost(r, 0, errNoFile)
		r.deliver(1, new(udpClient), "a")
		r.wantSessions(1)
		r.wantLines("client refused", 1)
		r.wantStrikes("192.0.2.1:53", 0, upstream.Up)
	})
	t.Run("a session is not evicted for its own new socket", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		r.deliver(1, new(udpClient), "a") // is the longest-idle session from now on
		r.deliver(2, new(udpClient), "b")
		r.engine.lines = nil
		openAtMost(r, 1, errNoPort)
		r.engine.socket(1).sink.Failed(errRefused)
		r.engine.wants(t, "1 close", "open 192.0.2.1:53: "+errNoPort.Error(), "2 close", "3 open 192.0.2.1:53", "3 < a")
	})
}
