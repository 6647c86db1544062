package handler

import (
	"testing"

	"go.uber.org/zap/zaptest/observer"

	"github.com/async-relay/caddy-relay/internal/stream"
)

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
