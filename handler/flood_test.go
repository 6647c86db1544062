package handler

import (
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/async-relay/caddy-relay/internal/stream"
)

// A flood of refused clients is a line a second, and each is counted.
func TestRefusalsAreALineASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []string{"drained.test:80"})
		r.drainAll()
		began := time.Now()
		for i := range 10_000 { // in ten seconds, and none as a second ends
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
		if total != 10_000 || r.service.floods.totalOf(refusedTCP) != 10_000 {
			t.Errorf("%d are told of, %d counted", total, r.service.floods.totalOf(refusedTCP))
		}
	})
}

// Whoever notes at once, and however the seconds fall: nothing is lost, and
// each kind has a line of its own, at its own level.
func TestFloodsOfEachKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []string{"a.test:80"})
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				for range 100 {
					for kind := range floodsLength {
						r.service.floods.note(r.relay.log, kind, zap.String("from", floodLines[kind].message))
					}
					time.Sleep(37 * time.Millisecond)
				}
			})
		}
		all.Wait()
		time.Sleep(2 * floodEvery)
		synctest.Wait()
		told := make(map[string]uint64)
		for _, line := range r.logs.All() {
			fields := line.ContextMap()
			told[line.Message] += fields["count"].(uint64)
			if fields["from"] != line.Message || fields["service"] != "test" || fields["count"] == uint64(0) {
				t.Errorf("%s: %v", line.Message, fields)
			}
		}
		for _, line := range floodLines {
			want := uint64(0)
			for _, other := range floodLines { // those of TCP and of UDP share their message
				if other.message == line.message {
					want += 1000
				}
			}
			if told[line.message] != want {
				t.Errorf("%d times %q, want %d", told[line.message], line.message, want)
			}
		}
	})
}

func TestFloodLevels(t *testing.T) {
	for kind, want := range map[flood]zapcore.Level{
		refusedTCP: zapcore.ErrorLevel, refusedUDP: zapcore.ErrorLevel, evicted: zapcore.WarnLevel, lackOfOwn: zapcore.WarnLevel,
	} {
		if got := floodLines[kind].level; got != want {
			t.Errorf("%q is at %s, want %s", floodLines[kind].message, got, want)
		}
	}
}

// After a quiet second the next event is told of at once.
func TestFloodIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []string{"a.test:80"})
		for i := range 3 {
			r.service.floods.note(r.relay.log, refusedTCP)
			if got := len(r.lines("client refused")); got != i+1 {
				t.Errorf("%d lines, want %d", got, i+1)
			}
			time.Sleep(floodEvery + time.Millisecond)
		}
	})
}
