// Package loglimit limits the log lines of events that can come in floods.
package loglimit

import (
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Interval is the least time between two lines of a [Limiter].
const Interval = time.Second

// Limiter counts the events of one kind and logs at most one line per
// [Interval]. The first event of an interval is logged at once, the others
// together at its end. Each line has the field count, the number of events since
// the line before. The zero value is ready for use. Limiter is safe for
// concurrent use.
type Limiter struct {
	mu      sync.Mutex // guards the fields below
	total   uint64
	pending uint64      // events since the last line
	latest  line        // of the latest pending event
	timer   *time.Timer // calls endInterval; nil between intervals
	closed  bool
}

type line struct {
	log     *zap.Logger
	level   zapcore.Level
	message string
	fields  []zap.Field
	about   zapcore.ObjectMarshaler // nil: none
}

// Log counts n events. If they are logged together with others, the line is that
// of the latest call.
func (l *Limiter) Log(log *zap.Logger, level zapcore.Level, message string, n uint64, fields ...zap.Field) {
	l.LogAbout(nil, log, level, message, n, fields...)
}

// LogAbout is Log with the fields of an object behind the others. They are asked for
// when a line is written, so an event without other fields allocates nothing.
func (l *Limiter) LogAbout(about zapcore.ObjectMarshaler, log *zap.Logger, level zapcore.Level, message string, n uint64, fields ...zap.Field) {
	l.mu.Lock()
	l.total += n
	l.pending += n
	l.latest = line{log, level, message, fields, about}
	first := l.timer == nil
	if first && !l.closed {
		l.timer = time.AfterFunc(Interval, l.endInterval)
	}
	l.mu.Unlock()
	if first {
		l.write()
	}
}

// Add counts n events that are not to be logged.
func (l *Limiter) Add(n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total += n
}

// Total returns the number of all events.
func (l *Limiter) Total() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

// Close logs the pending events without waiting for the end of the interval.
// Later events are logged one by one.
func (l *Limiter) Close() {
	l.mu.Lock()
	l.closed = true
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	l.mu.Unlock()
	l.write()
}

// endInterval logs the pending events and, if there were any, begins the next
// interval.
func (l *Limiter) endInterval() {
	l.mu.Lock()
	switch {
	case l.timer == nil: // closed in the meantime
	case l.pending > 0:
		l.timer.Reset(Interval)
	default:
		l.timer = nil
	}
	l.mu.Unlock()
	l.write()
}

// write logs the pending events, if there are any. It does not hold the lock
// while it logs.
func (l *Limiter) write() {
	l.mu.Lock()
	count, latest := l.pending, l.latest
	l.pending, l.latest = 0, line{}
	l.mu.Unlock()
	if count == 0 {
		return
	}
	if entry := latest.log.Check(latest.level, latest.message); entry != nil {
		fields := slices.Clip(latest.fields)
		if latest.about != nil {
			fields = append(fields, zap.Inline(latest.about))
		}
		entry.Write(append(fields, zap.Uint64("count", count))...)
	}
}
