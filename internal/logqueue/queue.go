// Package logqueue keeps callers of a logger from waiting for its writers. A log
// that is not read, such as a pipe to a stopped process, blocks the goroutine of
// its queue and nothing else.
package logqueue

import (
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Limit is the largest number of lines that wait for one log.
const Limit = 8192

// Queues counts the dropped lines of several queues, and flushes all of them. The
// zero value is ready for use.
type Queues struct {
	dropped atomic.Uint64

	mu     sync.Mutex // guards active; may be taken while output.mu is held, never the other way round
	active map[*output]struct{}
}

// Queue holds the lines of a logger until they are written. A logger may write to
// several logs. Each log has lines of its own in the queue, so that one that is
// not read does not delay the others.
//
// At most [Limit] lines wait for a log. A line more replaces the oldest line of
// the lowest level. It is dropped if no line of a lower level waits. Once there is
// room again, the log gets a line with the number of dropped lines.
type Queue struct {
	log     *zap.Logger
	outputs []*output
}

// New returns a queue for a logger. The levels, filters and sampling of the logger
// apply before a line enters the queue.
func (q *Queues) New(log *zap.Logger) *Queue {
	queue := new(Queue)
	queue.log = log.WithOptions(zap.WrapCore(func(whole zapcore.Core) zapcore.Core {
		var cores []zapcore.Core
		for _, part := range split(whole) {
			out := &output{queues: q}
			out.direct = log.WithOptions(zap.WrapCore(func(zapcore.Core) zapcore.Core { return part }))
			queue.outputs = append(queue.outputs, out)
			cores = append(cores, &core{part, out})
		}
		return zapcore.NewTee(cores...)
	}))
	return queue
}

// split returns the cores that zapcore.NewTee has joined. The type of the joined
// core is an unexported slice of cores, so it is read by reflection. Any other
// core is returned as it is.
func split(whole zapcore.Core) (parts []zapcore.Core) {
	list := reflect.ValueOf(whole)
	if list.Kind() != reflect.Slice || list.Type().Elem() != reflect.TypeFor[zapcore.Core]() {
		return []zapcore.Core{whole}
	}
	for i := range list.Len() {
		parts = append(parts, list.Index(i).Interface().(zapcore.Core))
	}
	return parts
}

// Logger returns the logger whose lines go through the queue.
func (q *Queue) Logger() *zap.Logger { return q.log }

// Release waits until the waiting lines are written, at most for a timeout. Call
// it when the config of the logger has ended. If a log has not written a line in
// that time, its lines are dropped, and so are new ones until it continues.
func (q *Queue) Release(timeout time.Duration) {
	var outputs sync.WaitGroup
	for _, out := range q.outputs {
		outputs.Go(func() { out.release(timeout) })
	}
	outputs.Wait()
}

// Flush waits until the lines that wait in all queues are written, at most for a
// timeout. It reports whether they are.
func (q *Queues) Flush(timeout time.Duration) bool {
	q.mu.Lock()
	outputs := make([]*output, 0, len(q.active))
	for out := range q.active {
		outputs = append(outputs, out)
	}
	q.mu.Unlock()
	deadline := time.Now().Add(timeout)
	flushed := true
	for _, out := range outputs {
		flushed = out.flush(time.Until(deadline)) && flushed
	}
	return flushed
}

// Dropped returns the number of dropped lines of all queues.
func (q *Queues) Dropped() uint64 { return q.dropped.Load() }

// setActive adds an output to those that Flush waits for, or removes it.
func (q *Queues) setActive(out *output, active bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case !active:
		delete(q.active, out)
	case q.active == nil:
		q.active = map[*output]struct{}{out: {}}
	default:
		q.active[out] = struct{}{}
	}
}

// core is the core of one log. It passes lines to an output instead of writing
// them.
type core struct {
	zapcore.Core // the log's own
	out          *output
}

// With implements zapcore.Core.
func (c *core) With(fields []zapcore.Field) zapcore.Core { return &core{c.Core.With(fields), c.out} }

// Check implements zapcore.Core. The log's own core decides whether it takes the
// line.
func (c *core) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	own := c.Core.Check(entry, nil)
	if own == nil {
		return checked
	}
	return checked.AddCore(entry, &line{Core: c.Core, own: own, out: c.out})
}

// line is a line that its log takes. It is a core that the line is written to
// once, so that a line needs one allocation.
type line struct {
	zapcore.Core
	own    *zapcore.CheckedEntry // writes to the log's own core
	out    *output
	fields []zapcore.Field

	number uint64 // in the order of arrival; guarded by output.mu, as is next
	next   *line  // of the same level
}

// Write implements zapcore.Core. It does not wait for the log.
func (l *line) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	l.own.Entry = entry
	l.fields = append(l.fields, fields...) // the caller may use its slice again
	l.out.add(l)
	return nil
}
