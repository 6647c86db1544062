package handler

import (
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap/zaptest/observer"

	"github.com/async-relay/caddy-relay/upstream"
)

var (
	errNoPort   = os.NewSyscallError("connect", syscall.EAGAIN)
	errNoFile   = os.NewSyscallError("socket", syscall.EMFILE)
	errNoMemory = os.NewSyscallError("write", syscall.ENOBUFS)
	errTooBig   = os.NewSyscallError("write", syscall.EMSGSIZE)
)

func TestUDPNoRoom(t *testing.T) {
	// openAtMost makes an engine that has room for so many sockets.
	openAtMost := func(r *udpRig, n int, err error) {
		r.engine.onOpen = func(netip.AddrPort) error {
			if open, _ := r.engine.sockets(); open >= n {
				return err
			}
			return nil
		}
	}
	for name, err := range map[string]error{"port": errNoPort, "descriptor": errNoFile} {
		t.Run("no "+name+" left: the longest-idle session ends", func(t *testing.T) {
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
	t.Run("at most three sessions go for one attempt", func(t *testing.T) {
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
	t.Run("a session without a socket does not go in vain", func(t *testing.T) {
		r := newUDPRig(t, []string{"a.example:53"}, func(o *Options) { o.ConnectTimeout = limit })
		r.resolver.set("a.example", hangAnswer)
		r.deliver(1, new(udpClient), "a") // searches; the longest idle from here on
		eventually(t, "the question", func() bool { return len(r.resolver.questions("a.example")) > 0 })
		r.resolver.setCached("a.example", "192.0.2.1")
		r.deliver(2, new(udpClient), "b")
		r.engine.socket(1).answer("B")
		r.deliver(3, new(udpClient), "c")
		r.deliver(4, new(udpClient), "d")
		r.deliver(3, new(udpClient), "c")
		r.engine.lines = nil
		openAtMost(r, 3, errNoPort)
		no := "open 192.0.2.1:53: " + errNoPort.Error()
		r.deliver(5, new(udpClient), "e") // for a socket that had no answer: the longest-idle of two
		r.engine.wants(t, no, "3 close", "4 open 192.0.2.1:53", "4 < e")
		for n, want := range []int{2, 4, 1} { // then the next one, and in the end the one that had
			r.deliver(6+n, new(udpClient), "f")
			r.engine.wants(t, no, fmt.Sprint(want, " close"), fmt.Sprint(5+n, " open 192.0.2.1:53"), fmt.Sprint(5+n, " < f"))
			if n == 1 { // those that came meanwhile have an answer later than the first
				for i := range 2 {
					r.engine.socket(5 + i).answer("F")
				}
			}
		}
		if r.session(1) == nil {
			t.Error("the one that searches is gone")
		}
	})
	t.Run("there is no other session", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		openAtMost(r, 0, errNoFile)
		r.deliver(1, new(udpClient), "a")
		r.wantSessions(1)
		r.wantLines("client refused", 1)
		r.wantStrikes("192.0.2.1:53", 0, upstream.Up)
	})
	t.Run("an established session does not go for its own new socket", func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		r.deliver(1, new(udpClient), "a") // the longest idle from here on
		r.deliver(2, new(udpClient), "b")
		r.engine.lines = nil
		openAtMost(r, 1, errNoPort)
		r.engine.socket(1).sink.Failed(errRefused)
		r.engine.wants(t, "1 close", "open 192.0.2.1:53: "+errNoPort.Error(), "2 close", "3 open 192.0.2.1:53", "3 < a")
	})
}

func TestUDPUnsendable(t *testing.T) {
	for name, err := range map[string]error{"too big": errTooBig, "no memory": errNoMemory} {
		t.Run(name+": that datagram only, no strike", func(t *testing.T) {
			r := newUDPRig(t, []string{"192.0.2.1:53"})
			r.engine.onSend = func(_ *fakeSocket, d []byte) error {
				if string(d) == "x" {
					return err
				}
				return nil
			}
			client := new(udpClient)
			r.deliver(1, client, "x", "a", "x", "b")
			bad := "1 < x: " + err.Error()
			r.engine.wants(t, "1 open 192.0.2.1:53", bad, "1 < a", bad, "1 < b")
			r.wantStrikes("192.0.2.1:53", 0, upstream.Up)
			r.engine.socket(1).sink.Failed(errRefused) // it is not sent again either
			r.engine.wants(t, "1 close", "2 open 192.0.2.1:53", "2 < a", "2 < b")
			// Nor does it count as carried.
			use := r.service.Stats(time.Now()).Backends[0].Use[upstream.UDP]
			if use.DatagramsUp != 2 || use.BytesUp != 2 {
				t.Errorf("%d datagrams, %d bytes up", use.DatagramsUp, use.BytesUp)
			}
			r.session(1).end(shutdown)
			if up := r.line("relay ended").ContextMap()["datagrams_up"]; up != int64(2) {
				t.Errorf("the session says %v datagrams", up)
			}
		})
	}
}

// A client that was refused was refused, whatever it is that makes an end of
// its session later.
func TestUDPRefusedByWhatever(t *testing.T) {
	for _, why := range []reason{idleTimeout, shutdown, removed, evictedForRoom} {
		t.Run(string(why), func(t *testing.T) {
			var lines *observer.ObservedLogs
			r := newUDPRig(t, []string{"192.0.2.1:53"}, func(o *Options) { lines, o.AccessLogUDP = accessLog(o), true })
			r.engine.onSend = func(*fakeSocket, []byte) error { return errRefused }
			r.deliver(1, new(udpClient), "a")
			r.session(1).end(why)
			wantAccess(t, lines, map[string]any{"reason": string(refusedClient), "backend": "", "address": nil, "bytes_up": int64(1)})
		})
	}
}
