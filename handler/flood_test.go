package handler

import (
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/async-relay/caddy-relay/internal/loglimit"
	"github.com/async-relay/caddy-relay/internal/stream"
)

// Refused clients are all counted but logged only once per second.
func TestRefusalsLoggedOncePerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []string{"drained.test:80"})
		r.drainAll()
		began := time.Now()
		for i := range 10_000 { // within ten seconds, none at the end of a second
			near, far := net.Pipe()
			r.relay.ServeTCP(t.Context(), stream.Client{Conn: far})
			_ = near.Close()
			if i%100 == 99 {
				time.Sleep(97 * time.Millisecond)
			}
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		lines := r.lines("client refused")
		if len(lines) != 11 {
			t.Errorf("%d lines in %v", len(lines), time.Since(began))
		}
		total := uint64(0)
		for i, line := range lines {
			total += line.ContextMap()["count"].(uint64)
			if i > 0 && line.Time.Sub(lines[i-1].Time) < time.Second {
				t.Errorf("line %d is %v after the one before", i, line.Time.Sub(lines[i-1].Time))
			}
		}
		if total != 10_000 || r.service.floods.total(refusedTCP) != 10_000 {
			t.Errorf("%d logged, %d counted, want 10000", total, r.service.floods.total(refusedTCP))
		}
	})
}

// Events of all kinds from several goroutines are all logged, with the message of
// their kind.
func TestFloodKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []string{"a.test:80"})
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				for range 100 {
					for kind := range floodKinds {
						r.service.floods.note(r.relay.log, kind, zap.String("from", floodLines[kind].message))
					}
					time.Sleep(37 * time.Millisecond)
				}
			})
		}
		all.Wait()
		time.Sleep(2 * loglimit.Interval)
		synctest.Wait()
		logged := make(map[string]uint64)
		for _, line := range r.logs.All() {
			fields := line.ContextMap()
			logged[line.Message] += fields["count"].(uint64)
			if fields["from"] != line.Message || fields["service"] != "test" || fields["count"] == uint64(0) {
				t.Errorf("%s: %v", line.Message, fields)
			}
		}
		for _, line := range floodLines {
			want := uint64(0)
			for _, other := range floodLines { // TCP and UDP share their messages
				if other.message == line.message {
					want += 1000
				}
			}
			if logged[line.message] != want {
				t.Errorf("%d times %q, want %d", logged[line.message], line.message, want)
			}
		}
	})
}

func TestFloodLevels(t *testing.T) {
	for kind, want := range map[flood]zapcore.Level{
		refusedTCP: zapcore.ErrorLevel, refusedUDP: zapcore.ErrorLevel, evicted: zapcore.WarnLevel, exhausted: zapcore.WarnLevel,
	} {
		if got := floodLines[kind].level; got != want {
			t.Errorf("%q is at %s, want %s", floodLines[kind].message, got, want)
		}
	}
}

// After a quiet second the next event is logged at once.
func TestFloodAfterQuietSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []string{"a.test:80"})
		for i := range 3 {
			r.service.floods.note(r.relay.log, refusedTCP)
			if got := len(r.lines("client refused")); got != i+1 {
				t.Errorf("%d lines, want %d", got, i+1)
			}
			time.Sleep(loglimit.Interval + time.Millisecond)
		}
	})
}
