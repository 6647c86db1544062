package handler

import (
	"context"
	"net"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// accessLog sets an access log in a relay's options and returns its lines.
func accessLog(o *Options) *observer.ObservedLogs {
	core, lines := observer.New(zapcore.DebugLevel)
	o.AccessLog = zap.New(core)
	return lines
}

// wantAccess waits for the only line of an access log, compares fields of it and
// returns its attempts. A nil stands for a field that must be absent.
func wantAccess(t *testing.T, lines *observer.ObservedLogs, want map[string]any) (attempts []map[string]any) {
	t.Helper()
	relaytest.Eventually(t, "a line in the access log", func() bool { return lines.Len() > 0 })
	all := lines.TakeAll()
	fields := all[0].ContextMap()
	if len(all) != 1 || all[0].Message != "relayed" || all[0].Level != zapcore.InfoLevel {
		t.Errorf("%d lines, the first %s %q", len(all), all[0].Level, all[0].Message)
	}
	for name, value := range want {
		if got, there := fields[name]; there != (value != nil) || there && got != value {
			t.Errorf("%s is %v, want %v", name, got, value)
		}
	}
	if took, ok := fields["duration"].(time.Duration); !ok || took < 0 {
		t.Errorf("duration %v", fields["duration"])
	}
	if took, ok := fields["dial_ms"].(float64); !ok || took < 0 {
		t.Errorf("dial_ms %v", fields["dial_ms"])
	}
	for _, attempt := range fields["attempts"].([]any) {
		one := attempt.(map[string]any)
		if took, ok := one["ms"].(float64); !ok || took < 0 {
			t.Errorf("an attempt took %v", one["ms"])
		}
		attempts = append(attempts, one)
	}
	return attempts
}

// wantAttempts compares the backends and addresses of attempts. All of them must
// have failed, except the last one if succeeds is true.
func wantAttempts(t *testing.T, got []map[string]any, succeeds bool, backends ...string) {
	t.Helper()
	if len(got) != len(backends) {
		t.Fatalf("%d attempts, want %d: %v", len(got), len(backends), got)
	}
	for i, attempt := range got {
		_, failed := attempt["error"]
		if attempt["backend"] != backends[i] || attempt["address"] != backends[i] || failed == (succeeds && i == len(got)-1) {
			t.Errorf("attempt %d: %v", i+1, attempt)
		}
	}
}

// The line of a TCP relay has the client, the backend, the attempts and the
// result: first after two strikes of a dead backend, then without a failure.
func TestAccessLogTCP(t *testing.T) {
	relaytest.NoLeaks(t)
	dead := deadTCP(t, lo(t, 1)+":0")
	live := serveTCP(t, lo(t, 2)+":0", echo)
	var lines *observer.ObservedLogs
	r := newRig(t, []string{dead, live.String()}, func(o *Options) { lines = accessLog(o) })
	for n := range 2 {
		near, far := relaytest.TCPPair(t)
		local := far.LocalAddr().String()
		done := r.serve(context.Background(), plainClient(far))
		relaytest.Write(t, near, "question")
		relaytest.WantRead(t, near, "question")
		if lines.Len() > 0 {
			t.Error("a line before the end")
		}
		relaytest.Check(t, near.CloseWrite())
		relaytest.Receive(t, "the end of the relay", done)
		attempts := wantAccess(t, lines, map[string]any{
			"service": "test", "network": "tcp", "client": near.LocalAddr().String(), "local": local,
			"backend": live.String(), "address": live.String(), "bytes_up": int64(8), "bytes_down": int64(8),
			"datagrams_up": nil, "reason": string(stream.ClientClosed), "error": nil,
		})
		if n == 0 {
			wantAttempts(t, attempts, true, dead, dead, live.String())
		} else {
			wantAttempts(t, attempts, true, live.String())
		}
	}
}

// A refused client has a line too, whether no backend accepted it or a limit was
// reached.
func TestAccessLogRefusedClient(t *testing.T) {
	relaytest.NoLeaks(t)
	dead := deadTCP(t, lo(t, 1)+":0")
	var lines *observer.ObservedLogs
	r := newRig(t, []string{dead}, func(o *Options) { lines, o.MaxConnections = accessLog(o), 1 })
	client, done := r.client()
	wantEnding(t, "the client", client, "RST")
	relaytest.Receive(t, "the end of the relay", done)
	attempts := wantAccess(t, lines, map[string]any{
		"client": client.LocalAddr().String(), "backend": "", "address": nil, "reason": string(stream.RefusedNoBackend),
		"bytes_up": int64(0), "bytes_down": int64(0),
		"error": "backend " + dead + ": dial tcp " + dead + ": connect: connection refused",
	})
	wantAttempts(t, attempts, false, dead, dead)

	place, refusal := r.service.admission.admit(&r.relay.opts, ipOf(client.LocalAddr()))
	if refusal != "" {
		t.Fatal(refusal)
	}
	client, done = r.client()
	wantEnding(t, "the client over the limit", client, "RST")
	relaytest.Receive(t, "the end of the relay", done)
	if attempts := wantAccess(t, lines, map[string]any{
		"backend": "", "reason": string(stream.RefusedLimit), "error": "max_connections: limit of 1 reached",
	}); len(attempts) != 0 {
		t.Errorf("attempts for a client over the limit: %v", attempts)
	}
	r.service.admission.leave(place)
}

// The line of a relay that is cut during its search has the attempts made until
// then.
func TestAccessLogCutDuringSearch(t *testing.T) {
	relaytest.NoLeaks(t)
	dead, silent := deadTCP(t, lo(t, 1)+":0"), newSilentTCP(t, lo(t, 2)+":0")
	var lines *observer.ObservedLogs
	r := newRig(t, []string{dead, silent.String()}, func(o *Options) { lines = accessLog(o) })
	client, done := r.client()
	waitForSYN(t, silent.String())
	r.service.Cut()
	wantEnding(t, "the client", client, "RST")
	relaytest.Receive(t, "the end of the relay", done)
	wantAttempts(t, wantAccess(t, lines, map[string]any{"reason": string(stream.Removed), "backend": ""}), false, dead, dead)
}

// An attempt may end while the relay's line is written.
func TestAccessLogDuringAttempt(t *testing.T) {
	var lines *observer.ObservedLogs
	r := newRig(t, []string{"192.0.2.1:1"}, func(o *Options) { lines = accessLog(o) })
	client := net.TCPAddrFromAddrPort(udpKey(1).Client)
	relay := &tcpRelay{relay: r.relay, client: client, local: client}
	walk := r.service.Pool.Walk(upstream.TCP)
	a, _ := walk.Next(time.Now())
	noted := make(chan struct{})
	go func() {
		defer close(noted)
		relay.note(outcome{attempt: a, err: errRefused})
	}()
	relay.log(record{why: stream.Shutdown})
	relaytest.Receive(t, "the attempt", noted)
	wantAccess(t, lines, map[string]any{"reason": string(stream.Shutdown)})
}

// UDP sessions have a line only if that is configured; it counts datagrams.
func TestAccessLogUDP(t *testing.T) {
	for _, wanted := range []bool{false, true} {
		relaytest.NoLeaks(t)
		var lines *observer.ObservedLogs
		r := newUDPRig(t, []string{"192.0.2.1:53", "192.0.2.2:53"}, func(o *Options) {
			lines, o.AccessLogUDP = accessLog(o), wanted
		})
		client := new(udpClient)
		r.deliver(1, client, "one")
		r.engine.socket(1).sink.Failed(errRefused)
		r.engine.socket(2).sink.Failed(errRefused)
		r.engine.socket(3).answer("hello")
		r.deliver(1, client, "three")
		r.session(1).end(stream.IdleTimeout)
		if !wanted {
			if lines.Len() != 0 {
				t.Errorf("%d lines without AccessLogUDP", lines.Len())
			}
			continue
		}
		attempts := wantAccess(t, lines, map[string]any{
			"service": "test", "network": "udp", "client": udpKey(1).Client.String(), "local": udpKey(1).Local.String(),
			"backend": "192.0.2.2:53", "address": "192.0.2.2:53", "bytes_up": int64(8), "bytes_down": int64(5),
			"datagrams_up": int64(2), "datagrams_down": int64(1), "reason": string(stream.IdleTimeout), "error": nil,
		})
		wantAttempts(t, attempts, true, "192.0.2.1:53", "192.0.2.1:53", "192.0.2.2:53")
	}
}
