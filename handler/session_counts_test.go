package handler

import (
	"testing"
	"time"

	"go.uber.org/zap/zaptest/observer"

	"github.com/async-relay/caddy-relay/internal/stream"
	"github.com/async-relay/caddy-relay/upstream"
)

// A client is counted once, however many sockets its session has needed: at the
// backend that answers, or where the session ends without an answer.
func TestUDPCountsClients(t *testing.T) {
	const first, second = "192.0.2.1:53", "192.0.2.2:53"
	r := newUDPRig(t, []string{first, second})
	want := func(when string, want map[string]uint64, active int) {
		t.Helper()
		stats := r.service.Stats(time.Now())
		total := 0
		for _, b := range stats.Backends {
			use := b.Use[upstream.UDP]
			total += use.Active
			if use.Connections != want[b.Backend.Text] {
				t.Errorf("%s: %s has served %d, want %d", when, b.Backend.Text, use.Connections, want[b.Backend.Text])
			}
		}
		if total != active {
			t.Errorf("%s: %d active, want %d", when, total, active)
		}
	}
	r.deliver(1, new(udpClient), "a")
	want("before the answer", nil, 1)
	r.engine.socket(1).sink.Failed(errRefused)
	r.engine.socket(2).sink.Failed(errRefused)
	r.engine.socket(3).answer("A")
	r.engine.socket(3).answer("B")
	want("after three sockets", map[string]uint64{second: 1}, 1)
	r.session(1).end(stream.IdleTimeout)
	want("after the end", map[string]uint64{second: 1}, 0)

	r.deliver(2, new(udpClient), "a")
	r.session(2).end(stream.IdleTimeout)
	want("without an answer", map[string]uint64{second: 2}, 0)

	r.engine.onSend = func(*fakeSocket, []byte) error { return errRefused }
	r.deliver(3, new(udpClient), "a")
	r.session(3).end(stream.IdleTimeout)
	want("refused", map[string]uint64{second: 2}, 0)
}

// The session of a refused client is logged as refused, whatever ends it.
func TestUDPRefusedSessionLog(t *testing.T) {
	for _, why := range []stream.Reason{stream.IdleTimeout, stream.Shutdown, stream.Removed, evictedForRoom} {
		t.Run(string(why), func(t *testing.T) {
			var lines *observer.ObservedLogs
			r := newUDPRig(t, []string{"192.0.2.1:53"}, func(o *Options) { lines, o.AccessLogUDP = accessLog(o), true })
			r.engine.onSend = func(*fakeSocket, []byte) error { return errRefused }
			r.deliver(1, new(udpClient), "a")
			r.session(1).end(why)
			wantAccess(t, lines, map[string]any{"reason": string(stream.RefusedNoBackend), "backend": "", "address": nil, "bytes_up": int64(1)})
		})
	}
}
