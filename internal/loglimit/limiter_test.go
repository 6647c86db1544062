package loglimit

import (
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// counts returns the field count of each line.
func counts(logs *observer.ObservedLogs) (list []uint64) {
	for _, entry := range logs.All() {
		list = append(list, entry.ContextMap()["count"].(uint64))
	}
	return list
}

// The first event is logged at once, the rest of an interval at its end, and the
// interval after a quiet one begins with the next event.
func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		log := zap.New(core)
		var l Limiter
		for i := range 25 { // takes 2.5 intervals
			l.Log(log, zap.WarnLevel, "event", 1, zap.Int("number", i))
			time.Sleep(Interval / 10)
		}
		time.Sleep(2 * Interval)
		if got := counts(logs); len(got) != 4 || got[0] != 1 || got[1]+got[2]+got[3] != 24 {
			t.Errorf("counts %v, want 1 and three lines of the other 24", got)
		}
		if last := logs.All()[3]; last.Level != zap.WarnLevel || last.Message != "event" || last.ContextMap()["number"] != int64(24) {
			t.Errorf("last line: %v %v", last, last.ContextMap())
		}
		l.Log(log, zap.WarnLevel, "event", 3)
		if got := counts(logs); len(got) != 5 || got[4] != 3 {
			t.Errorf("after a quiet interval: counts %v", got)
		}
		if got := l.Total(); got != 28 {
			t.Errorf("total %d, want 28", got)
		}
		time.Sleep(2 * Interval)
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		log := zap.New(core)
		var l Limiter
		for range 3 {
			l.Log(log, zap.WarnLevel, "event", 1)
		}
		l.Close()
		l.Log(log, zap.WarnLevel, "event", 1)
		if got := counts(logs); !slices.Equal(got, []uint64{1, 2, 1}) {
			t.Errorf("counts %v, want 1, 2, 1", got)
		}
	})
}

// Events below the log's level are counted but not logged.
func TestLevel(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	var l Limiter
	l.Log(zap.New(core), zap.DebugLevel, "event", 1)
	l.Close()
	if l.Total() != 1 || logs.Len() != 0 {
		t.Errorf("total %d, %d lines", l.Total(), logs.Len())
	}
}

// about is an object with one field.
type about struct{ name string }

func (a *about) MarshalLogObject(line zapcore.ObjectEncoder) error {
	line.AddString("name", a.name)
	return nil
}

// The fields of an object stand in each line. Until then, an event allocates nothing.
func TestLogAbout(t *testing.T) { synctest.Test(t, testLogAbout) }

func testLogAbout(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	log := zap.New(core)
	var l Limiter
	l.LogAbout(&about{"first"}, log, zap.WarnLevel, "event", 1, zap.Int("number", 1))
	last := &about{"last"}
	if n := testing.AllocsPerRun(100, func() { l.LogAbout(last, log, zap.WarnLevel, "event", 1) }); n > 0 {
		t.Errorf("%v allocations for an event that is not logged at once", n)
	}
	l.Close()
	want := []map[string]any{
		{"number": int64(1), "name": "first", "count": uint64(1)},
		{"name": "last", "count": uint64(101)}, // AllocsPerRun makes one more call
	}
	for i, entry := range logs.All() {
		if got := entry.ContextMap(); i >= len(want) || !maps.Equal(got, want[i]) {
			t.Errorf("line %d has %v", i, got)
		}
	}
	if logs.Len() != len(want) {
		t.Errorf("%d lines, want %d", logs.Len(), len(want))
	}
}
