package handler

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/async-relay/caddy-relay/internal/dgram"
	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/upstream"
)

// udpAt serves UDP at an address until the test ends: it echoes, or only counts in
// received if that is not nil.
func udpAt(t *testing.T, at string, received chan<- string) {
	t.Helper()
	pc, err := net.ListenPacket("udp", at)
	relaytest.Check(t, err)
	t.Cleanup(func() { _ = pc.Close() })
	go func() { // ends when the socket is closed
		buf := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if received != nil {
				received <- string(buf[:n])
				continue
			}
			_, _ = pc.WriteTo(buf[:n], from)
		}
	}()
}

// freeUDP returns an address on which no process listens.
func freeUDP(t *testing.T) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", lo(t, 3)+":0")
	relaytest.Check(t, err)
	defer pc.Close()
	return pc.LocalAddr().String()
}

// Sessions that no backend accepts are served as soon as one recovers, with all
// datagrams that their clients have sent. None is refused.
func TestHeldSessionsAreServedAtRecovery(t *testing.T) {
	overEngines(t, func(t *testing.T, engine dgram.Engine) {
		relaytest.NoLeaks(t)
		at := freeUDP(t)
		var lines *observer.ObservedLogs
		r := newRig(t, []string{at}, withUDP(engine), holdingFor(time.Hour), func(o *Options) {
			var core zapcore.Core
			core, lines = observer.New(zapcore.DebugLevel)
			o.AccessLog, o.AccessLogUDP = zap.New(core), true
		})
		clients := make([]*udpClient, 30)
		for n := range clients {
			clients[n] = new(udpClient)
			r.deliver(n, clients[n], "a", "b")
		}
		waitHeld(t, r, len(clients))
		r.wantLines("client refused", 0, "backend failed, second strike", 1)
		if got := r.line("client held, no backend accepts it").ContextMap()["network"]; got != "udp" {
			t.Errorf("network %v", got)
		}
		for n := range clients {
			r.deliver(n, clients[n], "c")
		}
		if got := r.service.Stats(time.Now()).Held; got != len(clients) {
			t.Errorf("%d held", got)
		}

		began := time.Now()
		udpAt(t, at, nil)
		for _, client := range clients {
			client.waitFor(t, "a", "b", "c")
		}
		t.Logf("all served after %s", time.Since(began))
		waitHeld(t, r, 0)
		r.wantLines("client refused", 0, "backend recovered", 1)
		relaytest.Eventually(t, "the end of the attempts for held clients", func() bool {
			return !strings.Contains(allStacks(), "(*Relay).recheck")
		})
		r.session(0).end("test")
		if held, _ := lines.All()[0].ContextMap()["held_ms"].(float64); held <= 0 {
			t.Errorf("a line without held_ms: %v", lines.All()[0].ContextMap())
		}
	})
}

// A service that never answers is found by the absence of errors.
func TestHeldSessionsOfSilentService(t *testing.T) {
	overEngines(t, func(t *testing.T, engine dgram.Engine) {
		relaytest.NoLeaks(t)
		at := freeUDP(t)
		r := newRig(t, []string{at}, withUDP(engine), holdingFor(time.Hour))
		for n := range 5 {
			r.deliver(n, new(udpClient), fmt.Sprint("line ", n))
		}
		waitHeld(t, r, 5)
		received := make(chan string, 1000)
		udpAt(t, at, received)
		got := make(map[string]bool)
		for len(got) < 5 {
			got[relaytest.Receive(t, "a line", received)] = true
		}
		waitHeld(t, r, 0)
		r.wantLines("client refused", 0)
	})
}

// newHoldRig returns a rig whose only backend refuses every datagram. Its sessions
// are held; the attempts on their behalf find the port closed, too.
func newHoldRig(t *testing.T, edit ...func(*Options)) *udpRig {
	r := newUDPRig(t, []string{deadAddr}, append([]func(*Options){holdingFor(10 * time.Second)}, edit...)...)
	r.engine.onSend = func(s *fakeSocket, _ []byte) error {
		go s.sink.Failed(errRefused)
		return nil
	}
	return r
}

// A hold that ends without a recovery refuses the session with the last failure.
func TestHoldOfSessionEnds(t *testing.T) {
	r := newHoldRig(t, holdingFor(200*time.Millisecond))
	began := time.Now()
	r.deliver(1, new(udpClient), "a")
	line := r.line("client refused").ContextMap()
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("refused after %s", took)
	}
	if got, _ := line["error"].(string); !strings.Contains(got, errRefused.Error()) {
		t.Errorf("refused for %q", got)
	}
	waitHeld(t, r.rig, 0)
}

// A held session that ends is released. Its datagrams count in the budget of
// backlogs until then.
func TestHeldSessionIsReleased(t *testing.T) {
	for name, end := range map[string]func(*udpRig){
		"evicted": func(r *udpRig) { r.session(1).end(evictedForRoom) },
		"idle":    nil, // by the idle timeout
		"datagrams dropped for others": func(r *udpRig) {
			s := r.session(1)
			for arrived, ok := s.freeSpare(); ok; {
				arrived, ok = s.dropOldest(arrived)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newHoldRig(t, holdingFor(time.Hour), func(o *Options) {
				if end == nil {
					o.IdleTimeout = 500 * time.Millisecond
				}
			})
			r.deliver(1, new(udpClient), "a", "b")
			waitHeld(t, r.rig, 1)
			if held := r.relay.opts.Backlogs.Held(); held == 0 {
				t.Error("its datagrams are not counted")
			}
			if end != nil {
				end(r)
			}
			waitHeld(t, r.rig, 0)
			relaytest.Eventually(t, "the end of the attempts for held clients", func() bool {
				return !strings.Contains(allStacks(), "(*Relay).recheck")
			})
			r.wantLines("client refused", 0)
		})
	}
}

// At exit, held sessions are refused.
func TestHeldSessionsAreRefusedAtExit(t *testing.T) {
	r := newHoldRig(t, holdingFor(time.Hour))
	for n := range 3 {
		r.deliver(n, new(udpClient), "a")
	}
	waitHeld(t, r.rig, 3)
	r.service.stopAccepting()
	waitHeld(t, r.rig, 0)
	relaytest.Eventually(t, "a refusal of each", func() bool {
		return r.service.Stats(time.Now()).Refused[upstream.UDP][RefusedByBackends] == 3
	})
}

// While an operator holds the service, new clients wait without an attempt.
// Sessions that are served continue.
func TestOperatorHoldsSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		old, client := new(udpClient), new(udpClient)
		r.deliver(1, old, "a")
		r.engine.socket(1).answer("A")
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a")
		r.service.Hold(time.Hour, "test")
		r.deliver(1, old, "b")
		r.deliver(2, client, "x", "y")
		synctest.Wait()
		r.engine.wants(t, "1 < b")
		if got := r.service.Held(); got != 1 {
			t.Errorf("%d held", got)
		}
		r.service.Release("test")
		synctest.Wait()
		r.engine.wants(t, "2 open 192.0.2.1:53", "2 < x", "2 < y")
		r.engine.socket(2).answer("X")
		client.wants(t, "X")
		if got := r.service.Held(); got != 0 {
			t.Errorf("%d held", got)
		}
	})
}

// Without the option, nothing is held.
func TestSessionsAreNotHeldWithoutOption(t *testing.T) {
	r := newHoldRig(t, holdingFor(0))
	r.deliver(1, new(udpClient), "a")
	r.line("client refused")
	r.wantLines("client held, no backend accepts it", 0)
}

// A held session does not go to a backend that a check has condemned, before its hold
// has expired.
func TestHeldSessionAvoidsCondemnedBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"}, holdingFor(10*time.Second))
		b := r.service.Pool.Backend("192.0.2.1:53")
		probe := r.service.Pool.Probe(b, upstream.UDP, upstream.Works)
		a, _ := probe.Next(time.Now())
		probe.Failed(a, time.Now(), errHealthTimeout)
		a, _ = probe.Again(a, time.Now())
		probe.Failed(a, time.Now(), errHealthTimeout)
		client := new(udpClient)
		r.deliver(1, client, "a")
		time.Sleep(9 * time.Second)
		synctest.Wait()
		r.engine.wants(t)
		if got := r.service.Held(); got != 1 {
			t.Errorf("%d held", got)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		r.engine.wants(t, "1 open 192.0.2.1:53", "1 < a")
		r.engine.socket(1).answer("A")
		client.wants(t, "A")
		if got := r.service.Held(); got != 0 {
			t.Errorf("%d held", got)
		}
	})
}

// The log line of a refused client whose backend was down names the failure, not
// that a second lookup found the same addresses.
func TestRefusalNamesTheFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newUDPRig(t, []string{"192.0.2.1:53"})
		r.demote("192.0.2.1:53", upstream.UDP)
		r.deliver(1, new(udpClient), "a")
		r.engine.socket(1).sink.Failed(errRefused)
		synctest.Wait()
		if got, want := r.line("client refused").ContextMap()["error"], "backend 192.0.2.1:53: "+errRefused.Error(); got != want {
			t.Errorf("refused for %q, want %q", got, want)
		}
	})
}
